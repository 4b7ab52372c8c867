"""Shipped configurations of CartPole."""
