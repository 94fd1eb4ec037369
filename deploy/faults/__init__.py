"""The campaign: a mesh under faults while requests flow, then healed and held against its promise."""
