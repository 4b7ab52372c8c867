"""Plugins that turn a model's output into actions.

They read ``logit`` (see ``nervex.rl_utils.distribution``: a tensor [b, N], a list of them for multi-discrete actions,
or ``{'mu', 'sigma'}`` [b, A]) and, where given, ``action_mask`` (true: allowed; shapes of the logits; from the output
or the observation), and add ``action`` (int64 [b], int64 [b, heads], or float [b, A]).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nervex.agent.plugin import AgentPlugin, Forward
from nervex.rl_utils.distribution import Logit, log_prob, masked_logit, mode, sample
from nervex.rl_utils.exploration import create_noise_generator
from nervex.utils.errors import ConfigError
from nervex.utils.tree import tree_map


def _mask(output: dict[str, Any], data: dict[str, Any]) -> Any:
    """Returns the mask (bool, shapes of the logits) of output or observation; None without one."""
    mask = output.get("action_mask")
    if mask is None and isinstance(data["obs"], Mapping):
        mask = data["obs"].get("action_mask")
    return None if mask is None else tree_map(lambda m: m.bool(), mask)


def _masked(output: dict[str, Any], mask: Any) -> Logit:
    logit: Logit = output["logit"]
    return logit if mask is None else masked_logit(logit, mask)


class ArgmaxSamplePlugin(AgentPlugin):
    """The likeliest action: that of the largest logit, or μ."""

    is_function = True

    def wrap(self, forward: Forward) -> Forward:
        def run(data: dict[str, Any], param: dict[str, Any]) -> dict[str, Any]:
            output = forward(data, param)
            output["action"] = mode(_masked(output, _mask(output, data)))
            return output

        return run


class MultinomialSamplePlugin(AgentPlugin):
    """An action drawn from the distribution of the logits; its log-probability is added as ``logp``, float [b]."""

    is_function = True

    def wrap(self, forward: Forward) -> Forward:
        def run(data: dict[str, Any], param: dict[str, Any]) -> dict[str, Any]:
            output = forward(data, param)
            logit = _masked(output, _mask(output, data))
            output["action"] = sample(logit)
            output["logp"] = log_prob(logit, output["action"])
            return output

        return run


class EpsGreedySamplePlugin(AgentPlugin):
    """The best action, or with probability ``eps`` one drawn uniformly from the allowed ones.

    ``eps`` is a keyword of the agent's forward: a number, or one per lane, float [b]. Every lane draws for itself.
    """

    is_function = True

    def wrap(self, forward: Forward) -> Forward:
        def run(data: dict[str, Any], param: dict[str, Any]) -> dict[str, Any]:
            eps = param.pop("eps", None)
            if eps is None:
                raise ConfigError("eps_greedy_sample: forward() got no 'eps'; call agent.forward(obs, eps=0.1)")
            output = forward(data, param)
            mask = _mask(output, data)
            best = mode(_masked(output, mask))  # [b] or [b, heads]
            several = isinstance(output["logit"], list | tuple)
            draw = torch.rand(best.shape[:-1] if several else best.shape, device=best.device)
            explore = draw < (eps.to(draw.device) if isinstance(eps, Tensor) else eps)  # [b]
            other = _uniform(output["logit"], mask)
            output["action"] = torch.where(explore.unsqueeze(-1) if several else explore, other, best)
            return output

        return run


def _uniform(logit: Any, mask: Any) -> Tensor:
    """Returns actions drawn uniformly from those that ``mask`` allows."""
    if mask is not None:
        return sample(masked_logit(tree_map(torch.zeros_like, logit), mask))
    if isinstance(logit, Tensor):
        return torch.randint(logit.shape[-1], logit.shape[:-1], device=logit.device)
    return torch.stack([_uniform(head, None) for head in logit], dim=-1)


class ActionNoisePlugin(AgentPlugin):
    """Adds noise to a continuous ``action`` float [b, ...] and clips the sum. Noise that goes on from step to step
    (``'ou'``) does so for each lane of the forward's ``data_id`` by itself; without it the rows are all lanes.

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
            lane = param.get("data_id")
            output = forward(data, param)
            action = output["action"]
            noise = self._noise(action.shape, action.device, lane)
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
