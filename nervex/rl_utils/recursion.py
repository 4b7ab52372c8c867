"""What returns over time share: the ends of episodes, and the backward recursion.

Letters: ``T`` time, ``B`` batch. Values have T+1 rows: row t+1 is the value of the observation after row t. Rows follow
next-step autoreset: after an episode's end comes a dummy row, not valid, whose observation is the true final one; so
``value[t+1]`` is what a truncated row bootstraps from.
"""

from torch import Tensor

from nervex.rl_utils.checks import check_shape


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


class Ends:
    """Where episodes end in rows [T, B], and which rows are transitions.

    Args:
        fn: the function whose arguments these are, for the errors.
        reward: float [T, B], gives the shape.
        terminated: the task ended at the row, so nothing follows; bool (or 0 and 1) [T, B]; None: never.
        truncated: a time limit ended the episode at the row, which bootstraps; [T, B]; None: never.
        valid: the row is a transition and not a dummy or padding; [T, B]; None: all are.

    Attributes:
        goes_on: the next row belongs to the same episode, bool [T, B], or None: it always does.

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
        self.terminated = None if terminated is None else terminated.bool()
        self.valid = None if valid is None else valid.bool()
        self.goes_on = self.valid
        for end in (self.terminated, None if truncated is None else truncated.bool()):
            if end is not None:
                self.goes_on = ~end if self.goes_on is None else self.goes_on & ~end

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
