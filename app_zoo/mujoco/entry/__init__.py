"""Shipped configurations of the MuJoCo robots."""
