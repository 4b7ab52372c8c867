"""Shipped configurations of Pendulum."""
