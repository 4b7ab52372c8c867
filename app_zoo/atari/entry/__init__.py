"""Shipped configurations of the Atari games."""
