"""Plays service requests through a running mesh as their offices' agencies, and says what became of them."""
