"""Plugins that change how a forward runs: gradients, recurrent state, weights of target and teacher."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nervex.agent.plugin import AgentPlugin, Forward
from nervex.torch_utils.device import device_of
from nervex.torch_utils.held import Held, module_keepers, places_in
from nervex.utils.errors import ConfigError, SpecError, did_you_mean
from nervex.utils.tree import tree_leaves, tree_map, tree_map_


class GradPlugin(AgentPlugin):
    """Runs the forward with gradients on or off.

    Args:
        enable_grad: record gradients.
    """

    is_function = True

    def __init__(self, enable_grad: bool) -> None:
        self.enable_grad = enable_grad

    def wrap(self, forward: Forward) -> Forward:
        context = torch.enable_grad if self.enable_grad else torch.no_grad

        def run(data: dict[str, Any], param: dict[str, Any]) -> dict[str, Any]:
            with context():
                return forward(data, param)

        return run


class HiddenStatePlugin(AgentPlugin):
    """Keeps the recurrent state of each lane between forwards.

    Gives the model ``data['prev_state']`` (a tree of tensors [b, ...], rows in the order of ``data_id``; None while no
    lane has a state) and takes ``next_state`` (same layout) out of its output. Without ``data_id`` the rows are all
    lanes in their order. Lanes are added when their ids are first met.

    Args:
        state_num: number of lanes to begin with; None: as many as are met.
        save_prev_state: add the state before the forward to the output, detached, as ``prev_state``.
        init_fn: returns the initial state of one lane (tree of tensors); None: zeros.
    """

    def __init__(
        self, state_num: int | None = None, save_prev_state: bool = False, init_fn: Callable[[], Any] | None = None
    ) -> None:
        self._state_num = state_num or 0
        self._save_prev_state = save_prev_state
        self._init_fn = init_fn or (lambda: None)
        self._state: Any = None  # tree of tensors [lanes, ...]
        self._model = nn.Module()

    def bind(self, model: nn.Module) -> None:
        self._model = model

    def wrap(self, forward: Forward) -> Forward:
        def run(data: dict[str, Any], param: dict[str, Any]) -> dict[str, Any]:
            lane = param.get("data_id")
            prev = self._read(lane)
            output = forward({**data, "prev_state": prev}, param)
            after = output.pop("next_state")
            self._write(lane, after)
            if self._save_prev_state:
                prev = tree_map(torch.zeros_like, after) if prev is None else prev
                output["prev_state"] = tree_map(lambda x: x.detach(), prev)
            return output

        return run

    def reset(self, data_id: Tensor | None = None, state: Any = None, **kwargs: Any) -> None:
        """Sets the lanes' state to ``state`` (tree of tensors [b, ...]) or to the initial one. Without ``data_id``,
        the rows of ``state`` are all lanes from then on."""
        if state is not None:
            if data_id is None:
                self._state = None
            device = device_of(self._model)
            self._write(data_id, tree_map(lambda x: x.to(device), state))
        elif self._state is not None:
            self._hold(data_id, 0, self._state)
            num = len(self._index(data_id))
            self._write(data_id, tree_map(lambda x: x.expand(num, *x.shape), self._first(self._state)))

    def state_dict(self) -> dict[str, Any]:
        return {"state": self._state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        held, device = state["state"], device_of(self._model)
        self._state = None if held is None else tree_map(lambda x: x.to(device, copy=True), held)

    def _read(self, lane: Tensor | None) -> Any:
        """Returns the states of the lanes (int64 [b], None: all) before a forward; None where none is known."""
        if self._state is None and self._init_fn() is None:
            return None
        self._hold(lane, self._state_num, self._state)
        index = self._index(lane)
        return tree_map(lambda s: s.index_select(0, index), self._state)

    def _write(self, lane: Tensor | None, rows: Any) -> None:
        """Sets the states of the lanes (int64 [b], None: all) to ``rows`` [b, ...]."""
        num = len(tree_leaves(rows)[0])
        if self._state is None:
            self._hold(lane, self._state_num or (num if lane is None else 0), rows)
        else:
            self._hold(lane, 0, rows)
        index = self._index(lane)
        if len(index) != num:
            raise SpecError(f"hidden_state: got the states of {num} rows for {len(index)} lanes; give forward() and "
                            "reset() the lane of each row as data_id")  # fmt: skip
        tree_map_(lambda s, x: s.index_copy_(0, index, x.detach()), self._state, rows)

    def _hold(self, lane: Tensor | None, at_least: int, like: Any) -> None:
        """Adds lanes in the initial state until those of ``lane`` are there, and ``at_least`` so many."""
        held = 0 if self._state is None else len(tree_leaves(self._state)[0])
        num = max(at_least, 0 if lane is None or not len(lane) else int(lane.max()) + 1)
        if num <= held:
            return
        with torch.inference_mode(False):  # actors forward in inference mode and reset lanes outside of it
            new = tree_map(lambda x: x.detach().expand(num - held, *x.shape).clone(), self._first(like))
            self._state = tree_map(lambda s, x: torch.cat([s, x]), self._state, new) if held else new

    def _first(self, like: Any) -> Any:
        """Returns the initial state of one lane, where ``like`` is a tree of states [b, ...]."""
        first = self._init_fn()
        if first is None:
            return tree_map(lambda x: x.new_zeros(x.shape[1:]), like)
        device = device_of(self._model)
        return tree_map(lambda x: x.to(device), first)

    def _index(self, lane: Tensor | None) -> Tensor:
        if self._state is None:
            raise ConfigError("hidden_state: how many lanes there are is not known; give state_num to the plugin, or "
                              "data_id to forward()")  # fmt: skip
        leaf = tree_leaves(self._state)[0]
        return torch.arange(len(leaf), device=leaf.device) if lane is None else lane.to(leaf.device)


class TargetPlugin(AgentPlugin):
    """Weights that follow those of the main model.

        assign:    every ``freq``-th update copies them
        momentum:  p ← (1 − θ)·p + θ·p_main

    Buffers are copied by both: statistics are no slower than the rows that they are of.

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
        self._pairs: TargetPairs | None = None

    def bind(self, model: nn.Module) -> None:
        self._model, self._pairs = model, None
        for p in model.parameters():
            p.requires_grad_(False)

    @torch.no_grad()
    def update(self, state_dict: Mapping[str, Tensor], direct: bool = False) -> None:
        """Moves the weights toward ``state_dict`` of the main model; ``direct`` copies them at once."""
        assert self._model is not None
        self._count += 1
        if self._freq and not direct and self._count % self._freq:
            return
        if self._pairs is None or not self._pairs.serve(state_dict):
            self._pairs = TargetPairs(self._model, state_dict)
        self._pairs.move(1.0 if direct or self._freq else self._theta)

    def reset(self, data_id: Tensor | None = None, **kwargs: Any) -> None:
        """Starts counting updates anew."""
        self._count = 0

    def state_dict(self) -> dict[str, Any]:
        return {"count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._count = int(state["count"])


class TargetPairs:
    """The tensors of a target network with those that they follow, found once for as long as they are the same.

    Args:
        model: the target network.
        state_dict: of the main model.
    """

    def __init__(self, model: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
        self._source = getattr(state_dict, "module", None)
        main = state_dict if self._source is None else self._source.state_dict(keep_vars=True)
        own = {name: value for name, value in model.state_dict(keep_vars=True).items() if isinstance(value, Tensor)}
        moving = [name for name, _ in model.named_parameters()]  # one that has two names moves once
        parameters = {id(p) for p in model.parameters()}
        rest = [name for name, value in own.items() if id(value) not in parameters]
        self._moving = [own[name] for name in moving], [main[name] for name in moving]
        self._copied = [own[name] for name in rest], [main[name] for name in rest]
        models = [model] if self._source is None else [model, self._source]
        keepers = [kept for m in models for kept in module_keepers(m)]
        self._held = Held(places_in(keepers), keepers)
        held = {id(value) for _, _, value in places_in(keepers)}
        followed = [main[name] for name in own]
        self._lasting = self._source is not None and all(id(t) in held for t in (*own.values(), *followed))

    def serve(self, state_dict: Mapping[str, Tensor]) -> bool:
        """Returns whether these are still the tensors of target network and ``state_dict``."""
        return self._lasting and getattr(state_dict, "module", None) is self._source and self._held.unchanged()

    def move(self, theta: float) -> None:
        """Moves the parameters by the part ``theta`` toward the main ones, and copies the buffers."""
        own, main = self._moving
        if theta == 1.0:
            torch._foreach_copy_(own, main)
        else:
            torch._foreach_lerp_(own, main, theta)
        if self._copied[0]:
            torch._foreach_copy_(*self._copied)


class TeacherPlugin(AgentPlugin):
    """A model that is not trained: no gradients, always in eval mode.

    Args:
        teacher_cfg: settings for the policy that learns from it, which reads them as ``agent.teacher_cfg``.
    """

    frozen = True

    def __init__(self, teacher_cfg: Mapping[str, Any] | None = None) -> None:
        self.cfg = dict(teacher_cfg or {})

    def bind(self, model: nn.Module) -> None:
        model.requires_grad_(False)

    def wrap(self, forward: Forward) -> Forward:
        return GradPlugin(enable_grad=False).wrap(forward)
