"""Shipped configurations of the memory cue."""
