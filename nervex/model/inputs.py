"""What a built-in network takes: observations in their several forms, and masks of actions."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from nervex.rl_utils.distribution import MASKED
from nervex.utils.errors import ConfigError, did_you_mean
from nervex.utils.tree import tree_map


def read_input(x: Any) -> tuple[Any, Any, Tensor | None]:
    """Returns ``(obs, prev_state, begin)`` of ``{'obs': ..., 'prev_state': ..., 'begin': ...}``, of which the last two
    may be missing (None), or of the observation itself."""
    if isinstance(x, Mapping) and "obs" in x:
        return x["obs"], x.get("prev_state"), x.get("begin")
    return x, None, None


def encode(encoder: nn.Module, obs: Any, sequence: bool) -> Tensor:
    """Returns the embeddings [B, E] of observations [B, ...], or [T, B, E] of [T, B, ...] when ``sequence``."""
    if not sequence:
        return encoder(obs)  # type: ignore[no-any-return]
    lead: list[int] = []

    def merge(leaf: Tensor) -> Tensor:
        lead[:] = leaf.shape[:2]
        return leaf.flatten(0, 1)

    return encoder(tree_map(merge, obs)).unflatten(0, lead)  # type: ignore[no-any-return]


def action_mask(obs: Any, sizes: Sequence[int] | None = None) -> Any:
    """Returns the mask of the allowed actions in ``obs``, or None.

    Args:
        obs: observation; a mapping may hold ``action_mask``: bool [..., N], and for several heads (``sizes``) a list of
            them or one of all heads side by side.
        sizes: number of actions of each head; the result is then a list.
    """
    mask = obs.get("action_mask") if isinstance(obs, Mapping) else None
    if mask is None or sizes is None:
        return mask
    return list(mask.split(list(sizes), dim=-1)) if isinstance(mask, Tensor) else list(mask)


def masked(logit: Tensor, mask: Tensor | None) -> Tensor:
    """Returns the logits with -1e8 where the action is not allowed."""
    return logit if mask is None else logit.masked_fill(~mask.bool(), MASKED)


def head_sizes(action_dim: Any, action_type: str | None) -> tuple[str, list[int]]:
    """Returns the kind of action, and the number of actions of each head or the length of a continuous action.

    Args:
        action_dim: int N, or a sequence of them, one per head.
        action_type: ``'discrete'``, ``'multi_discrete'`` or ``'continuous'``; None: the first for an int, else the
            second.

    Raises:
        ConfigError: unknown type, or one that does not go with ``action_dim``.
    """
    known = ("discrete", "multi_discrete", "continuous")
    several = not isinstance(action_dim, int)
    kind = action_type or known[several]
    if kind not in known:
        raise ConfigError(f"unknown action_type '{kind}'{did_you_mean(kind, known)} (known: {', '.join(known)})")
    if several is not (kind == "multi_discrete"):
        expected = "a list with the number of actions of each head" if kind == "multi_discrete" else "an int"
        found = list(action_dim) if several else action_dim
        raise ConfigError(f"action_type '{kind}' takes {expected} as action_dim, got {found}")
    sizes = list(action_dim) if several else [action_dim]
    if not sizes or min(sizes) < 1:
        raise ConfigError(f"action_dim is {sizes if several else action_dim}; expected at least one of at least 1")
    return kind, sizes


def check_mode(mode: str, known: Sequence[str], name: str) -> None:
    """Raises a ConfigError when a network has no forward ``mode``."""
    if mode not in known:
        raise ConfigError(f"{name} has no mode '{mode}'{did_you_mean(mode, known)} (known: {', '.join(known)})")
