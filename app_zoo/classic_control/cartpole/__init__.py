"""CartPole: its env and its shipped configurations."""
