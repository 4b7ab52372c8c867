"""Acrobot: its env and its shipped configurations."""
