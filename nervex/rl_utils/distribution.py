"""Distributions of actions as plain functions of a model's ``logit``.

The type of ``logit`` says which distribution it is:

- a tensor [..., N]: categorical, action int [...];
- a list of tensors [..., N_i]: independent categoricals (multi-discrete), action int [..., heads];
- a dict ``{'mu', 'sigma'}`` of tensors [..., A]: normal with a diagonal covariance, σ > 0, action float [..., A].

Log-probabilities, entropies and divergences are summed over the heads or the dimensions of the action. Nothing here
waits for a device, so σ > 0 and actions below N are the caller's to keep.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from nervex.rl_utils.checks import check_index, check_shape
from nervex.utils.errors import SpecError

Logit = Tensor | Sequence[Tensor] | Mapping[str, Tensor]

MASKED = -1e8  # finite, so that 0·log 0 is 0 in entropies and divergences
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def log_prob(logit: Logit, action: Tensor) -> Tensor:
    """Returns log π(action), float [...].

        categorical:  logit_a − log Σ_j exp(logit_j)
        normal:       Σ_i −(a_i − μ_i)² / (2·σ_i²) − log σ_i − log(2π) / 2

    Args:
        logit: of the distribution, see the module.
        action: int [...] (categorical), int [..., heads] (multi-discrete), float [..., A] (normal).

    Raises:
        SpecError: a shape, dtype or the type of ``logit`` does not fit.
    """
    return _family("log_prob", logit).log_prob(logit, action)


def entropy(logit: Logit) -> Tensor:
    """Returns the entropy in nats, float [...].

        categorical:  −Σ_j p_j·log p_j
        normal:       Σ_i log σ_i + log(2πe) / 2

    Raises:
        SpecError: the type of ``logit`` does not fit.
    """
    return _family("entropy", logit).entropy(logit)


def log_prob_and_entropy(logit: Logit, action: Tensor) -> tuple[Tensor, Tensor]:
    """Returns :func:`log_prob` and :func:`entropy`, both float [...], from one softmax."""
    return _family("log_prob", logit).log_prob_and_entropy(logit, action)


def sample(logit: Logit) -> Tensor:
    """Draws an action from torch's generator, independently for each row; no gradient. See :func:`log_prob` for its
    shape and dtype."""
    with torch.no_grad():
        return _family("sample", logit).sample(logit)


def mode(logit: Logit) -> Tensor:
    """Returns the likeliest action, the first one among equals; shape and dtype as in :func:`log_prob`."""
    return _family("mode", logit).mode(logit)


def kl_divergence(p: Logit, q: Logit) -> Tensor:
    """Returns KL(p ‖ q) ≥ 0 in nats, float [...].

        categorical:  Σ_j p_j·(log p_j − log q_j)
        normal:       Σ_i log(σ_q / σ_p) + (σ_p² + (μ_p − μ_q)²) / (2·σ_q²) − 1/2

    Raises:
        SpecError: the two are distributions of different kinds or shapes.
    """
    family = _family("kl_divergence", p)
    if family is not _family("kl_divergence", q):
        raise SpecError(
            f"kl_divergence: 'p' is a {type(p).__name__} and 'q' a {type(q).__name__}, expected logits of one kind"
        )
    return family.kl_divergence(p, q)


def squashed_sample(logit: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Draws an action of the tanh-squashed normal, and its log-probability, both with gradients (reparameterized).

        u = μ + σ·ε, ε ~ N(0, 1);  a = tanh(u)
        log π(a) = Σ_i log N(u_i; μ_i, σ_i) − 2·(log 2 − u_i − softplus(−2·u_i))

    Haarnoja et al. 2018, https://arxiv.org/abs/1801.01290, eq. 21; log(1 − tanh²(u)) is written so that it neither
    underflows nor needs an epsilon, whatever u. The action itself rounds to ±1 in float32 where |u| > 9.

    Args:
        logit: ``{'mu', 'sigma'}`` of the normal before tanh, float [..., A].

    Returns:
        ``(action, logp)``: float [..., A] in (-1, 1), and float [...].

    Raises:
        SpecError: ``logit`` is not that of a normal.
    """
    mu, sigma = _Normal.parts("squashed_sample", logit)
    noise = torch.randn_like(mu)  # [..., A] ε
    u = mu + sigma * noise
    log_slope = 2 * (math.log(2) - u + logsigmoid(2 * u))  # [..., A] log(1 − tanh²(u)); logsigmoid(x) = −softplus(−x)
    logp = -0.5 * noise.square() - sigma.log() - _HALF_LOG_2PI - log_slope
    return u.tanh(), logp.sum(-1)


def squashed_mode(logit: Mapping[str, Tensor]) -> Tensor:
    """Returns tanh(μ), float [..., A]: the deterministic action of a tanh-squashed normal (its median)."""
    return _Normal.parts("squashed_mode", logit)[0].tanh()


def masked_logit(logit: Any, mask: Any) -> Any:
    """Returns ``logit`` with -1e8 where ``mask`` is false, so that such actions have probability 0 and no gradient.

    A row without any allowed action becomes uniform.

    Args:
        logit: of a categorical [..., N], or of several, a list of [..., N_i].
        mask: True where an action is allowed, bool, of the logits' shapes; for several also one tensor [..., ΣN_i].

    Raises:
        SpecError: a shape or dtype does not fit, or ``logit`` is that of a normal.
    """
    family = _family("masked_logit", logit)
    if family is _Categorical:
        return _masked(logit, mask)
    if family is _Normal:
        raise SpecError("masked_logit: 'logit' is that of a normal distribution, expected one of discrete actions")
    if isinstance(mask, Tensor):
        sizes = [head.shape[-1] for head in logit]
        check_shape("masked_logit", "mask", mask, (*logit[0].shape[:-1], sum(sizes)))
        mask = mask.split(sizes, -1)
    _check_heads("masked_logit", "mask", len(mask), len(logit))
    return [_masked(head, head_mask) for head, head_mask in zip(logit, mask, strict=True)]


def _masked(logit: Tensor, mask: Tensor) -> Tensor:
    check_shape("masked_logit", "mask", mask, tuple(logit.shape))
    if mask.dtype != torch.bool:
        raise SpecError(f"masked_logit: 'mask' is {mask.dtype}, expected torch.bool (True: allowed); cast with .bool()")
    return logit.masked_fill(~mask, max(MASKED, torch.finfo(logit.dtype).min))


class _Family(Protocol):
    """The functions of one kind of distribution."""

    def log_prob(self, logit: Any, action: Tensor) -> Tensor: ...
    def entropy(self, logit: Any) -> Tensor: ...
    def log_prob_and_entropy(self, logit: Any, action: Tensor) -> tuple[Tensor, Tensor]: ...
    def sample(self, logit: Any) -> Tensor: ...
    def mode(self, logit: Any) -> Tensor: ...
    def kl_divergence(self, p: Any, q: Any) -> Tensor: ...


class _CategoricalFamily:
    def log_prob(self, logit: Tensor, action: Tensor) -> Tensor:
        return self._pick(logit.log_softmax(-1), action)

    def entropy(self, logit: Tensor) -> Tensor:
        return self._mean_surprise(logit.log_softmax(-1))

    def log_prob_and_entropy(self, logit: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        logp = logit.log_softmax(-1)  # [..., N]
        return self._pick(logp, action), self._mean_surprise(logp)

    def sample(self, logit: Tensor) -> Tensor:
        # of exponential clocks with rates p, the first to ring is j with probability p_j
        prob = logit.softmax(-1, dtype=torch.float32)  # [..., N]
        clock = torch.empty_like(prob).exponential_().clamp_(min=torch.finfo(prob.dtype).tiny)
        return (prob / clock).argmax(-1)

    def mode(self, logit: Tensor) -> Tensor:
        return logit.argmax(-1)

    def kl_divergence(self, p: Tensor, q: Tensor) -> Tensor:
        check_shape("kl_divergence", "q", q, tuple(p.shape))
        logp = p.log_softmax(-1)  # [..., N]
        return (logp.exp() * (logp - q.log_softmax(-1))).sum(-1)

    @staticmethod
    def _pick(logp: Tensor, action: Tensor) -> Tensor:
        check_shape("log_prob", "action", action, tuple(logp.shape[:-1]))
        check_index("log_prob", "action", action)
        return logp.gather(-1, action.long().unsqueeze(-1)).squeeze(-1)

    @staticmethod
    def _mean_surprise(logp: Tensor) -> Tensor:
        return -(logp.exp() * logp).sum(-1)


class _MultiCategoricalFamily:
    def log_prob(self, logit: Sequence[Tensor], action: Tensor) -> Tensor:
        return _total([_Categorical.log_prob(head, a) for head, a in self._heads(logit, action)])

    def entropy(self, logit: Sequence[Tensor]) -> Tensor:
        return _total([_Categorical.entropy(head) for head in logit])

    def log_prob_and_entropy(self, logit: Sequence[Tensor], action: Tensor) -> tuple[Tensor, Tensor]:
        both = [_Categorical.log_prob_and_entropy(head, a) for head, a in self._heads(logit, action)]
        return _total([logp for logp, _ in both]), _total([entropy for _, entropy in both])

    def sample(self, logit: Sequence[Tensor]) -> Tensor:
        return torch.stack([_Categorical.sample(head) for head in logit], dim=-1)

    def mode(self, logit: Sequence[Tensor]) -> Tensor:
        return torch.stack([_Categorical.mode(head) for head in logit], dim=-1)

    def kl_divergence(self, p: Sequence[Tensor], q: Sequence[Tensor]) -> Tensor:
        _check_heads("kl_divergence", "q", len(q), len(p))
        return _total([_Categorical.kl_divergence(a, b) for a, b in zip(p, q, strict=True)])

    @staticmethod
    def _heads(logit: Sequence[Tensor], action: Tensor) -> list[tuple[Tensor, Tensor]]:
        check_shape("log_prob", "action", action, (*logit[0].shape[:-1], len(logit)))
        return list(zip(logit, action.unbind(-1), strict=True))


class _NormalFamily:
    def log_prob(self, logit: Mapping[str, Tensor], action: Tensor) -> Tensor:
        mu, sigma = self.parts("log_prob", logit)
        check_shape("log_prob", "action", action, tuple(mu.shape))
        deviation = (action - mu) / sigma  # [..., A]
        return (-0.5 * deviation.square() - sigma.log() - _HALF_LOG_2PI).sum(-1)

    def entropy(self, logit: Mapping[str, Tensor]) -> Tensor:
        return (self.parts("entropy", logit)[1].log() + (_HALF_LOG_2PI + 0.5)).sum(-1)

    def log_prob_and_entropy(self, logit: Mapping[str, Tensor], action: Tensor) -> tuple[Tensor, Tensor]:
        return self.log_prob(logit, action), self.entropy(logit)

    def sample(self, logit: Mapping[str, Tensor]) -> Tensor:
        mu, sigma = self.parts("sample", logit)
        return mu + sigma * torch.randn_like(mu)

    def mode(self, logit: Mapping[str, Tensor]) -> Tensor:
        return self.parts("mode", logit)[0]

    def kl_divergence(self, p: Mapping[str, Tensor], q: Mapping[str, Tensor]) -> Tensor:
        (mu_p, sigma_p), (mu_q, sigma_q) = self.parts("kl_divergence", p), self.parts("kl_divergence", q)
        check_shape("kl_divergence", "q", mu_q, tuple(mu_p.shape))
        ratio = sigma_p / sigma_q  # [..., A]
        return (0.5 * (ratio.square() + ((mu_p - mu_q) / sigma_q).square() - 1) - ratio.log()).sum(-1)

    @staticmethod
    def parts(fn: str, logit: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Returns μ and σ, both [..., A]."""
        if not isinstance(logit, Mapping) or logit.keys() != {"mu", "sigma"}:
            got = f"has the keys {sorted(logit)}" if isinstance(logit, Mapping) else f"is a {type(logit).__name__}"
            raise SpecError(f"{fn}: 'logit' {got}, expected a dict with 'mu' and 'sigma'")
        mu, sigma = logit["mu"], logit["sigma"]
        check_shape(fn, "sigma", sigma, tuple(mu.shape))
        return mu, sigma


_Categorical = _CategoricalFamily()
_MultiCategorical = _MultiCategoricalFamily()
_Normal = _NormalFamily()


def _family(fn: str, logit: Any) -> _Family:
    if isinstance(logit, Tensor):
        return _Categorical
    if isinstance(logit, Mapping):
        return _Normal
    if isinstance(logit, (list, tuple)) and logit:
        return _MultiCategorical
    raise SpecError(
        f"{fn}: 'logit' is {'an empty' if isinstance(logit, (list, tuple)) else 'a'} {type(logit).__name__}, expected "
        "a tensor (discrete actions), a list of tensors (multi-discrete) or a dict with 'mu' and 'sigma' (continuous)"
    )


def _check_heads(fn: str, name: str, got: int, expected: int) -> None:
    if got != expected:
        raise SpecError(f"{fn}: '{name}' has {got} heads, expected {expected}")


def _total(parts: list[Tensor]) -> Tensor:
    return torch.stack(parts).sum(0)
