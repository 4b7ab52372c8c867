"""Pendulum: its env and its shipped configurations."""
