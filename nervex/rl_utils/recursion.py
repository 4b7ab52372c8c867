"""What returns over time share: the ends of episodes, and the backward recursion.

Letters: ``T`` time, ``B`` batch. Values have T+1 rows: row t+1 is the value of the observation after row t. Rows follow
next-step autoreset: after an episode's end comes a dummy row, not valid, whose observation is the true final one; so
``value[t+1]`` is what a truncated row bootstraps from.
"""

import numpy as np
import torch
from torch import Tensor

from nervex.rl_utils.checks import check_shape

# In a smaller table a compiled loop saves less, over a whole run, than loading its compiler costs (0.2 s, 100 MiB).
MIN_KERNEL_ROWS = 1 << 15


def kernel_serves(*columns: Tensor | None) -> bool:
    """Returns whether the loops of :mod:`nervex.kernels` can compute a table, and are faster.

    That is when the table is large and all columns are plain tensors on the CPU, of one dtype (float32 or float64;
    masks bool), which nobody traces and through which no gradient flows. In all other cases torch computes the same,
    but for rounding. The choice depends on sizes and types alone, so that equal calls give equal bits.

    Args:
        columns: the table [T, B], then what goes with it; None is passed over.
    """
    if torch.compiler.is_compiling():
        return False
    table = columns[0]
    if table is None or table.numel() < MIN_KERNEL_ROWS or table.dtype not in (torch.float32, torch.float64):
        return False
    # under a dispatch mode (fake tensors, tracing) what NumPy does would go unseen
    return torch._C._len_torch_dispatch_stack() == 0 and all(
        x is None or (_is_plain(x) and x.dtype in (table.dtype, torch.bool)) for x in columns
    )


def _is_plain(x: Tensor) -> bool:
    return (
        type(x) is Tensor
        and x.device.type == "cpu"
        and not (x.requires_grad and torch.is_grad_enabled())
        and not torch._C._functorch.is_functorch_wrapped_tensor(x)
    )


def array(x: Tensor) -> np.ndarray:
    """Returns the values of a tensor as a contiguous array, which shares memory if ``x`` is contiguous."""
    return x.detach().contiguous().numpy()


def backward_recursion(first: Tensor, factor: Tensor) -> Tensor:
    """Returns the solution of a linear recursion that runs backward in time.

        x_t = first_t + factor_t·x_{t+1},  x_T = 0

    Computed by doubling the span that each row has gathered, ⌈log₂ T⌉ times, instead of row by row (Hillis & Steele
    1986, https://doi.org/10.1145/7902.7903).

    Args:
        first: float [T, ...].
        factor: float [T, ...]; 0 where the recursion is cut.

    Returns:
        float [T, ...].
    """
    x, factor = first.clone(), factor.clone()
    span = 1
    while span < len(x):
        x[:-span] += factor[:-span] * x[span:]
        factor[:-span] = factor[:-span] * factor[span:]
        span *= 2
    return x


def new_table(like: Tensor) -> Tensor:
    """Returns a contiguous tensor [T, B] of the same size and dtype, for a kernel to fill."""
    return torch.empty_like(like, memory_format=torch.contiguous_format, requires_grad=False)


class Ends:
    """Where episodes end in rows [T, B], and which rows are transitions.

    Args:
        fn: the function whose arguments these are, for the errors.
        reward: float [T, B], gives the shape.
        terminated: the task ended at the row, so nothing follows; bool (or 0 and 1) [T, B]; None: never.
        truncated: a time limit ended the episode at the row, which bootstraps; [T, B]; None: never.
        valid: the row is a transition and not a dummy or padding; [T, B]; None: all are.

    Attributes:
        terminated, truncated, valid: bool [T, B], or None.

    Raises:
        SpecError: a shape does not fit.
    """

    def __init__(
        self, fn: str, reward: Tensor, terminated: Tensor | None, truncated: Tensor | None, valid: Tensor | None
    ) -> None:
        shape = tuple(reward.shape)
        for name, column in (("terminated", terminated), ("truncated", truncated), ("valid", valid)):
            if column is not None:
                check_shape(fn, name, column, shape)
        self._lanes = shape[-1]
        self.terminated = None if terminated is None else terminated.bool()
        self.truncated = None if truncated is None else truncated.bool()
        self.valid = None if valid is None else valid.bool()
        self._goes_on: Tensor | None = None

    @property
    def goes_on(self) -> Tensor | None:
        """Whether the next row belongs to the same episode, bool [T, B]; None: it always does."""
        if self._goes_on is None:  # not a cached_property, whose lock torch.compile cannot trace
            self._goes_on = self.valid
            for end in (self.terminated, self.truncated):
                if end is not None:
                    self._goes_on = ~end if self._goes_on is None else self._goes_on & ~end
        return self._goes_on

    @property
    def masks(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """``terminated``, ``truncated`` and ``valid``, bool [T, B] or None."""
        return self.terminated, self.truncated, self.valid

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the masks as the kernels take them: bool [T, B], or [1, B] for one that is None."""
        never, always = np.zeros((1, self._lanes), np.bool_), np.ones((1, self._lanes), np.bool_)
        terminated, truncated, valid = (None if mask is None else array(mask) for mask in self.masks)
        return (
            never if terminated is None else terminated,
            never if truncated is None else truncated,
            always if valid is None else valid,
        )

    def next_value(self, value: Tensor) -> Tensor:
        """Returns what the rows bootstrap from, float [T, B]: value[t+1], 0 where the task terminated."""
        return value[1:] if self.terminated is None else value[1:].masked_fill(self.terminated, 0)

    def td_error(self, value: Tensor, reward: Tensor, gamma: float) -> Tensor:
        """Returns δ_t = r_t + γ·(1 − terminated_t)·V_{t+1} − V_t, float [T, B]; 0 in rows that are not valid."""
        error = reward + gamma * self.next_value(value) - value[:-1]
        return error if self.valid is None else error.masked_fill(~self.valid, 0)

    def cut(self, factor: Tensor) -> Tensor:
        """Returns ``factor`` [T, B] with 0 where an episode ends and in rows that are not valid."""
        return factor if self.goes_on is None else factor.masked_fill(~self.goes_on, 0)


def check_values(fn: str, value: Tensor, reward: Tensor) -> None:
    """Raises SpecError unless ``reward`` is [T, B] and ``value`` [T+1, B]."""
    check_shape(fn, "reward", reward, (None, None))
    check_shape(fn, "value", value, (reward.shape[0] + 1, reward.shape[1]))
