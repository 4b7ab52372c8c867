"""The memory cue: its env and its shipped configurations."""
