"""One stage of the mesh in one process, with all its work, beside peers that do routing's job on the same input.

A service runs as it always does (`python -m services.routing`), a peer as a program of its own. Neither measures
itself: both are watched from outside, by the offsets that their group has committed and by the CPU time that Linux
counts for them, from when they are warm until the input is done or the window is over.
"""
