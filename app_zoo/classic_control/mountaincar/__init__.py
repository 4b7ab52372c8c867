"""MountainCar: its env and its shipped configurations."""
