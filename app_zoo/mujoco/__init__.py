"""Robots in the MuJoCo simulator."""
