"""Notify: decides who is told what, keeps a ledger of it, and sends it by SMS or mail."""
