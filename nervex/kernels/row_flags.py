"""What is known of every row of a replay, as bits of one byte (apart from the kernels, so that reading them loads no
compiler)."""

WRITTEN, VALID, ENDED, GAP, SEAM = 1, 2, 4, 8, 16
"""It was written; it is a transition; its episode ends there; it does not follow the row before it in time; nor does it
because it is the oldest row of its ring (or the next one to be written)."""
