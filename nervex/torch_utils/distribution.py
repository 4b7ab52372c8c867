"""Categorical distributions of actions as objects: of logits and of probabilities."""

import torch
from torch import Tensor
from torch.distributions import Categorical

from nervex.torch_utils.checks import check_index, check_name, check_shape
from nervex.utils.errors import SpecError

_REDUCTIONS = ("none", "mean")


class _CategoricalRows:
    """What the two classes below share."""

    _given: str  # the parameter of torch's distribution

    def __init__(self, given: Tensor | None) -> None:
        self._held: Categorical | None = None
        if given is not None:
            self._update(given)

    def neglogp(self, x: Tensor, reduction: str = "mean") -> Tensor:
        """Returns −log π(x): 0-d, the mean over the rows, or [...] with ``reduction='none'``.

        Args:
            x: actions, int [...].
            reduction: ``'mean'`` or ``'none'``.
        """
        held = self._distribution("neglogp")
        check_shape(f"{type(self).__name__}.neglogp", "x", x, tuple(held.batch_shape))
        check_index(f"{type(self).__name__}.neglogp", "x", x)
        return _reduced(-held.log_prob(x), reduction)

    def entropy(self, reduction: str = "mean") -> Tensor:
        """Returns −Σ_j p_j·log p_j in nats: 0-d, the mean over the rows, or [...] with ``reduction='none'``."""
        return _reduced(self._distribution("entropy").entropy(), reduction)

    def mode(self) -> Tensor:
        """Returns the likeliest action of each row, the first one among equals, int64 [...]."""
        return self._distribution("mode").logits.argmax(-1)

    def noise_mode(self) -> Tensor:
        """Returns the likeliest action after Gumbel noise was added to the logits, int64 [...]: a draw.

            argmax_j logit_j − log(−log u_j),  u_j uniform

        Gumbel 1954; Maddison et al. 2014, https://arxiv.org/abs/1411.0030.
        """
        logits = self._distribution("noise_mode").logits  # [..., N]
        clock = torch.empty_like(logits).exponential_().clamp_(min=torch.finfo(logits.dtype).tiny)  # −log u
        return (logits - clock.log()).argmax(-1)

    def sample(self) -> Tensor:
        """Draws an action for each row, int64 [...]."""
        return self._distribution("sample").sample()

    def _update(self, given: Tensor) -> None:
        if not isinstance(given, Tensor) or given.dim() < 1 or not given.shape[-1] or not given.is_floating_point():
            shape = f"{given.dtype} {list(given.shape)}" if isinstance(given, Tensor) else type(given).__name__
            raise SpecError(f"{type(self).__name__}: '{self._given}' is {shape}, expected a float tensor [..., N]")
        self._held = Categorical(**{self._given: given}, validate_args=False)  # validation would wait for the device

    def _distribution(self, method: str) -> Categorical:
        if self._held is None:
            name = type(self).__name__
            raise SpecError(f"{name}.{method}: there are no {self._given} yet; call update_{self._given} first")
        return self._held


class CategoricalPd(_CategoricalRows):
    """Categorical distributions, one per row, given by logits.

    Over ``torch.distributions.Categorical``; what losses need as functions is in ``nervex.rl_utils``.

    Args:
        logits: float [..., N]; None: :meth:`update_logits` follows.
    """

    _given = "logits"

    def __init__(self, logits: Tensor | None = None) -> None:
        super().__init__(logits)

    def update_logits(self, logits: Tensor) -> None:
        """Takes other logits, float [..., N]."""
        self._update(logits)


class CategoricalPdPytorch(_CategoricalRows):
    """Categorical distributions, one per row, given by probabilities, which need not add up to 1.

    Args:
        probs: float [..., N], at least 0; None: :meth:`update_probs` follows.
    """

    _given = "probs"

    def __init__(self, probs: Tensor | None = None) -> None:
        super().__init__(probs)

    def update_probs(self, probs: Tensor) -> None:
        """Takes other probabilities, float [..., N]."""
        self._update(probs)


def _reduced(x: Tensor, reduction: str) -> Tensor:
    check_name("reduction", reduction, _REDUCTIONS)
    return x.mean() if reduction == "mean" else x
