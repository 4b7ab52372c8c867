"""The small control tasks of Gymnasium."""
