"""Plugins that change how a forward runs: gradients, recurrent state, target weights."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nervex.agent.plugin import AgentPlugin, Forward
from nervex.utils.errors import ConfigError, did_you_mean
from nervex.utils.tree import tree_map, tree_map_


class GradPlugin(AgentPlugin):
    """Runs the forward with gradients on or off.

    Args:
        enable_grad: record gradients.
    """

    def __init__(self, enable_grad: bool) -> None:
        self._enable_grad = enable_grad

    def wrap(self, forward: Forward) -> Forward:
        context = torch.enable_grad if self._enable_grad else torch.no_grad

        def run(data: dict[str, Any], param: dict[str, Any]) -> dict[str, Any]:
            with context():
                return forward(data, param)

        return run


class HiddenStatePlugin(AgentPlugin):
    """Keeps the recurrent state of each lane between forwards.

    Gives the model ``data['prev_state']`` (a tree of tensors [b, ...], rows in the order of ``data_id``; None while no
    lane has a state) and takes ``next_state`` (same layout) out of its output.

    Args:
        state_num: number of lanes.
        save_prev_state: add the state before the forward to the output, detached, as ``prev_state``.
        init_fn: returns the initial state of one lane (tree of tensors); None: zeros.
    """

    def __init__(self, state_num: int, save_prev_state: bool = False, init_fn: Callable[[], Any] | None = None) -> None:
        self._state_num = state_num
        self._save_prev_state = save_prev_state
        self._init_fn = init_fn or (lambda: None)
        self._state: Any = None  # tree of tensors [state_num, ...]

    def wrap(self, forward: Forward) -> Forward:
        def run(data: dict[str, Any], param: dict[str, Any]) -> dict[str, Any]:
            data_id = param.pop("data_id", None)
            lane = torch.arange(self._state_num) if data_id is None else torch.as_tensor(data_id, dtype=torch.long)
            if self._state is None:
                self._state = self._initial(self._init_fn())
            prev = None if self._state is None else tree_map(lambda s: s[lane], self._state)
            output = forward({**data, "prev_state": prev}, param)
            after = output.pop("next_state")
            if self._state is None:
                zero: Any = tree_map(lambda x: torch.zeros_like(x[0]), after)
                self._state = self._initial(zero)
                prev = tree_map(torch.zeros_like, after)
            tree_map_(lambda s, x: s.index_copy_(0, lane, x.detach()), self._state, after)
            if self._save_prev_state:
                output["prev_state"] = tree_map(lambda x: x.detach(), prev)
            return output

        return run

    def reset(self, data_id: Tensor | None = None, state: Any = None, **kwargs: Any) -> None:
        """Sets the lanes' state to ``state`` (tree of tensors [b, ...]) or to the initial one."""
        if self._state is None:
            if state is None:
                return
            first = self._init_fn()
            self._state = self._initial(tree_map(lambda x: torch.zeros_like(x[0]), state) if first is None else first)
        lane = torch.arange(self._state_num) if data_id is None else data_id
        if state is None:
            first = self._init_fn()
            if first is None:
                tree_map_(lambda s: s.index_fill_(0, lane, 0), self._state)
                return
            state = tree_map(lambda x: x.expand(len(lane), *x.shape), first)
        tree_map_(lambda s, x: s.index_copy_(0, lane, x), self._state, state)

    def state_dict(self) -> dict[str, Any]:
        return {"state": self._state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        held = state["state"]
        self._state = None if held is None else tree_map(torch.clone, held)

    def _initial(self, first: Any) -> Any:
        if first is None:
            return None
        with torch.inference_mode(False):  # actors forward in inference mode and reset lanes outside of it
            return tree_map(lambda x: x.detach().expand(self._state_num, *x.shape).clone(), first)


class TargetPlugin(AgentPlugin):
    """Weights that follow those of the main model.

        assign:    every ``freq``-th update copies them
        momentum:  p ← (1 − θ)·p + θ·p_main

    Parameters and floating-point buffers take part alike; integer buffers are copied.

    Args:
        update_type: ``'assign'`` or ``'momentum'``.
        update_kwargs: ``{'freq': updates between copies}`` or ``{'theta': θ}``.
    """

    def __init__(self, update_type: str, update_kwargs: Mapping[str, Any]) -> None:
        known = {"assign": "freq", "momentum": "theta"}
        if update_type not in known:
            raise ConfigError(
                f"target: unknown update_type '{update_type}'{did_you_mean(update_type, known)} "
                "(known: assign, momentum)"
            )
        if known[update_type] not in update_kwargs:
            raise ConfigError(f"target: update_kwargs {dict(update_kwargs)} lacks '{known[update_type]}'")
        self._freq = int(update_kwargs["freq"]) if update_type == "assign" else 0
        self._theta = float(update_kwargs.get("theta", 0.0))
        self._count = 0
        self._model: nn.Module | None = None

    def bind(self, model: nn.Module) -> None:
        self._model = model
        for p in model.parameters():
            p.requires_grad_(False)

    @torch.no_grad()
    def update(self, state_dict: Mapping[str, Tensor], direct: bool = False) -> None:
        """Moves the weights toward ``state_dict`` of the main model; ``direct`` copies them at once."""
        assert self._model is not None
        self._count += 1
        if self._freq and not direct and self._count % self._freq:
            return
        own = self._model.state_dict()
        names = list(own)
        if direct or self._freq:
            torch._foreach_copy_([own[n] for n in names], [state_dict[n] for n in names])
            return
        moving = [n for n in names if own[n].is_floating_point()]
        torch._foreach_lerp_([own[n] for n in moving], [state_dict[n] for n in moving], self._theta)
        for name in names:
            if not own[name].is_floating_point():
                own[name].copy_(state_dict[name])

    def reset(self, data_id: Tensor | None = None, **kwargs: Any) -> None:
        """Starts counting updates anew."""
        self._count = 0

    def state_dict(self) -> dict[str, Any]:
        return {"count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._count = int(state["count"])
