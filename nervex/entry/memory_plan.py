"""How much memory a run will take, said before it begins."""

from typing import Any, NamedTuple

import numpy as np
import torch

from nervex.data.columns import Columns, to_plain
from nervex.data.lanes import LaneBlock
from nervex.data.memory import human_bytes
from nervex.data.window import ItemWindow
from nervex.entry.serial_parts import SerialParts
from nervex.envs.base_env import BaseEnvTimestep
from nervex.torch_utils.seeds import load_rng_state, rng_state
from nervex.utils.errors import ConfigError, SpecError
from nervex.utils.tree import tree_leaves, tree_map
from nervex.worker.actor.rollout import RESERVED

_MOMENTS = 2  # of every trained weight, that the optimizer keeps; RMSprop has one


class RunMemory(NamedTuple):
    """Bytes of memory that the large parts of a run will hold; PyTorch itself and the envs are not counted.

    Attributes:
        model: weights, target network, gradients and optimizer.
        store: replay, or rollouts on their way to the learner; None: known only once items are made.
        text: of the two, and their sum.
        lines: for people; every column of a replay.
    """

    model: int
    store: int | None
    text: str
    lines: list[str]


class DryRow(NamedTuple):
    """One row as an actor would write it, of observations as they are and a step that was not made."""

    obs: Any
    output: dict[str, Any]
    timestep: BaseEnvTimestep
    row: Columns


def dry_row(parts: SerialParts) -> DryRow:
    """Returns what the policy makes of the envs' present observations and of a step that changes nothing; envs stand
    still, and the policy is reset afterwards.

    Raises:
        SpecError: ``_forward_collect`` returns something else than a dict with an action.
    """
    policy, ready = parts.policy.collect_mode, parts.actor.env.ready_block()
    obs: Any = tree_map(torch.from_numpy, tree_map(np.copy, ready.obs))
    parts.command.step()
    with torch.inference_mode():
        lane_id, data = policy.data_preprocess(LaneBlock(ready.lane_id, obs))
        output = policy.forward(lane_id, data)
        if not isinstance(output, dict) or "action" not in output:
            raise SpecError(f"_forward_collect returned {type(output).__name__}; expected a dict with the key 'action'")
    rows = len(ready.lane_id)
    flags = torch.zeros(rows, dtype=torch.bool)
    ends = {"terminated": flags, "truncated": flags}
    timestep = BaseEnvTimestep(obs, torch.arange(rows, dtype=torch.float32), flags, ends)
    row = to_plain(policy.process_transition(obs, output, timestep))
    policy.reset()
    return DryRow(obs, output, timestep, row)


def plan_memory(parts: SerialParts, limit: int | None) -> RunMemory:
    """Plans the memory of a run whose envs are launched; nothing random moves on.

    Args:
        parts: of the run.
        limit: bytes that it may take; None: no limit.

    Raises:
        ConfigError: it would take more.
    """
    if parts.offline is not None:
        lines = [f"a data set of {human_bytes(parts.offline.data.nbytes)}, read from the disk as needed"]
        return _run_memory(_model_bytes(parts), 0, lines, limit)
    streams = rng_state()
    try:
        dry = dry_row(parts)
    finally:
        load_rng_state(streams)
    reserved = {name: np.zeros(len(dry.timestep.reward), dtype) for name, dtype in RESERVED.items()}
    block: Columns = tree_map(lambda x: torch.as_tensor(x)[None], {**dry.row, **reserved})  # [1, b, ...]
    model = _model_bytes(parts)
    return _run_memory(model, *_store_bytes(parts, block), limit)


def _run_memory(model: int, store: int | None, lines: list[str], limit: int | None) -> RunMemory:
    size = model + (store or 0)
    budget = "" if limit is None else f" (memory_limit {human_bytes(limit)})"
    text = f"memory: model {human_bytes(model)} with gradients and optimizer, {lines[0]}{budget}"
    memory = RunMemory(model, store, text, [f"model {human_bytes(model)} with gradients and optimizer", *lines])
    if limit is not None and size > limit:
        larger = "replay_buffer.meta_maxlen smaller" if (store or 0) > model else "the network smaller"
        raise ConfigError(
            f"memory_limit is {human_bytes(limit)}, and this run would take {human_bytes(size)} (model "
            f"{human_bytes(model)}, data {human_bytes(store or 0)}); make {larger}, or memory_limit larger"
        )
    return memory


def _model_bytes(parts: SerialParts) -> int:
    model = parts.policy.model
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    state = [*model.state_dict().values(), *tree_leaves(parts.policy.state_dict())]
    held = sum(leaf.numel() * leaf.element_size() for leaf in state if isinstance(leaf, torch.Tensor))
    return int(held + (1 + _MOMENTS) * trained)


def _store_bytes(parts: SerialParts, block: Columns) -> tuple[int | None, list[str]]:
    if parts.rollout is not None:
        row = sum(leaf.numel() * leaf.element_size() for leaf in tree_leaves(block))
        length = parts.actor.block_len
        if length == float("inf"):
            return None, ["rollouts as long as the episodes are"]
        size = 2 * row * int(length)  # of all lanes: as they are written, and as they are learned from
        return size, [f"rollouts {human_bytes(size)}"]
    if isinstance(parts.replay.window, ItemWindow):
        return None, ["a replay whose size is known with the first items"]
    plan = parts.replay.plan_memory(block)
    plan.check()
    return plan.memory_bytes, plan.text().split("\n")
