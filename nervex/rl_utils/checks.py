"""Shape and dtype checks at the border of the mathematics."""

from nervex.torch_utils.checks import check_index, check_shape

__all__ = ["check_index", "check_shape"]
