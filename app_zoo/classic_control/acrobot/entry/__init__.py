"""Shipped configurations of Acrobot."""
