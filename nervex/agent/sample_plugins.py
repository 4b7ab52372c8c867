"""Plugins that turn a model's output into actions.

They read ``logit`` (float [b, N], or a list of them for multi-discrete actions) and, where given, ``action_mask``
(bool, same shapes; from the output or the observation) and add ``action`` (int64 [b], or [b, heads]).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nervex.agent.plugin import AgentPlugin, Forward
from nervex.rl_utils.exploration import create_noise_generator
from nervex.utils.errors import ConfigError

_MASKED = -1e8

Pick = Callable[[Tensor, Tensor | None], Tensor]


def _heads(output: dict[str, Any], data: dict[str, Any]) -> tuple[list[Tensor], list[Tensor | None], bool]:
    """Returns logits and masks per head, and whether the action has several heads."""
    logit = output["logit"]
    mask = output.get("action_mask")
    if mask is None and isinstance(data["obs"], dict):
        mask = data["obs"].get("action_mask")
    several = isinstance(logit, list | tuple)
    logits = list(logit) if several else [logit]
    masks = [None] * len(logits) if mask is None else list(mask) if several else [mask]
    return logits, masks, several


def _sample(output: dict[str, Any], data: dict[str, Any], pick: Pick) -> dict[str, Any]:
    logits, masks, several = _heads(output, data)
    actions = [pick(logit, mask) for logit, mask in zip(logits, masks, strict=True)]  # each [b]
    output["action"] = torch.stack(actions, dim=-1) if several else actions[0]
    return output


def _masked(logit: Tensor, mask: Tensor | None) -> Tensor:
    return logit if mask is None else logit.masked_fill(~mask.bool(), _MASKED)


class ArgmaxSamplePlugin(AgentPlugin):
    """The action of the largest logit."""

    def wrap(self, forward: Forward) -> Forward:
        def run(data: dict[str, Any], param: dict[str, Any]) -> dict[str, Any]:
            return _sample(forward(data, param), data, lambda logit, mask: _masked(logit, mask).argmax(dim=-1))

        return run


class MultinomialSamplePlugin(AgentPlugin):
    """An action drawn from the softmax of the logits."""

    def wrap(self, forward: Forward) -> Forward:
        def pick(logit: Tensor, mask: Tensor | None) -> Tensor:
            return torch.multinomial(torch.softmax(_masked(logit, mask), dim=-1), 1).squeeze(-1)

        return lambda data, param: _sample(forward(data, param), data, pick)


class EpsGreedySamplePlugin(AgentPlugin):
    """The best action, or with probability ``eps`` one drawn uniformly from the allowed ones.

    ``eps`` is a keyword of the agent's forward: a number, or one per lane, float [b]. Every lane draws for itself.
    """

    def wrap(self, forward: Forward) -> Forward:
        def run(data: dict[str, Any], param: dict[str, Any]) -> dict[str, Any]:
            eps = param.pop("eps", None)
            if eps is None:
                raise ConfigError("eps_greedy_sample: forward() got no 'eps'; call agent.forward(obs, eps=0.1)")
            output = forward(data, param)
            first = output["logit"][0] if isinstance(output["logit"], list | tuple) else output["logit"]
            explore = torch.rand(first.shape[:-1], device=first.device) < eps  # [b]

            def pick(logit: Tensor, mask: Tensor | None) -> Tensor:
                best = _masked(logit, mask).argmax(dim=-1)
                if mask is None:
                    other = torch.randint(logit.shape[-1], best.shape, device=best.device)
                else:
                    other = torch.multinomial(mask.float().flatten(0, -2), 1).view(best.shape)
                return torch.where(explore, other, best)

            return _sample(output, data, pick)

        return run


class ActionNoisePlugin(AgentPlugin):
    """Adds noise to a continuous ``action`` float [b, ...] and clips the sum.

    Args:
        noise_type: ``'gauss'`` or ``'ou'``.
        noise_kwargs: arguments of the noise.
        noise_range: ``{'min', 'max'}`` of the noise; None: unbounded.
        action_range: ``{'min', 'max'}`` of the action; None: -1 to 1.
    """

    def __init__(
        self,
        noise_type: str = "gauss",
        noise_kwargs: dict[str, Any] | None = None,
        noise_range: dict[str, float] | None = None,
        action_range: dict[str, float] | None = None,
    ) -> None:
        self._noise = create_noise_generator(noise_type, noise_kwargs)
        self._noise_range = noise_range
        self._action_range = {"min": -1.0, "max": 1.0} if action_range is None else action_range

    def wrap(self, forward: Forward) -> Forward:
        def run(data: dict[str, Any], param: dict[str, Any]) -> dict[str, Any]:
            output = forward(data, param)
            action = output["action"]
            noise = self._noise(action.shape, action.device)
            if self._noise_range is not None:
                noise = noise.clamp(self._noise_range["min"], self._noise_range["max"])
            output["action"] = (action + noise).clamp(self._action_range["min"], self._action_range["max"])
            return output

        return run

    def reset(self, data_id: Tensor | None = None, **kwargs: Any) -> None:
        self._noise.reset(data_id)

    def state_dict(self) -> dict[str, Any]:
        return self._noise.state_dict()  # type: ignore[no-any-return]

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._noise.load_state_dict(state)
