"""Functions of NumPy arrays that take tensors too, without torch being imported for it: env processes have none."""

import functools
import sys
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec

import numpy as np

P = ParamSpec("P")


def same_kind(fn: Callable[Concatenate[np.ndarray, P], np.ndarray]) -> Callable[Concatenate[Any, P], Any]:
    """Returns ``fn`` that answers in kind: a tensor for a tensor, on the same device; a NumPy array for all else.

    Args:
        fn: function of an array, and of other arguments, that returns an array of its own.
    """

    @functools.wraps(fn)
    def answer(v: Any, *args: P.args, **kwargs: P.kwargs) -> Any:
        torch = sys.modules.get("torch")  # where it was never imported there is no tensor
        if torch is None or not isinstance(v, torch.Tensor):
            return fn(np.asarray(v), *args, **kwargs)
        return torch.from_numpy(fn(v.detach().cpu().numpy(), *args, **kwargs)).to(v.device)

    return answer
