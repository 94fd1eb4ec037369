"""Intake: validates what agencies send, accepts or rejects it with a reason, one verdict per event id."""
