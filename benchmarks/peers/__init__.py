"""The same job on other frameworks: read accepted requests, name the office, publish that. Each as its own docs advise.

Each folder is one peer, with a locked environment of its own. Peers in Python share `job.py`, which is plain pydantic
and none of the mesh's code, so that they differ in what carries the events and not in what is done with them, and stand
still when the mesh gets faster.
"""
