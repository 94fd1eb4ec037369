"""Reads what a mesh left behind, and holds it against what was promised."""
