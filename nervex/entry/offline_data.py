"""Opens the data set that a run learns from, and checks that it fits the env before anything starts."""

from typing import Any

import numpy as np
import torch

from nervex.data.offline.episodes import OfflineData, is_obs
from nervex.data.offline.files import open_dataset
from nervex.entry.compile_config import CompiledConfig
from nervex.envs.base_env import LeafSpec, spec_tree
from nervex.utils.errors import DatasetError

_SLACK = 1e-4  # rounding of actions at the bounds


def open_for_run(compiled: CompiledConfig) -> OfflineData:
    """Returns the data set of a configuration.

    Raises:
        DatasetError: it is missing, damaged, or of another env: other observations, or actions that the env does not
            take.
    """
    data = open_dataset(compiled.cfg.dataset.path)
    cfg = compiled.cfg.env
    env = f"env '{cfg.get('env_id') or cfg.get('env_type') or 'own'}'"
    wanted = {**_leaves("obs", spec_tree(compiled.info.obs_space)),
              **_leaves("action", spec_tree(compiled.info.act_space, is_action=True))}  # fmt: skip
    held = {name for name in data.specs if is_obs(name) or name.partition("/")[0] == "action"}
    if held != wanted.keys():
        raise DatasetError(
            f"data set {data.path} has the columns {sorted(held)}, {env} {sorted(wanted)}; use its own data"
        )
    for name, spec in wanted.items():
        _check_column(data, name, spec, env)
    return data


def _check_column(data: OfflineData, name: str, spec: LeafSpec, env: str) -> None:
    got = data.specs[name]
    discrete, is_float = spec.kind == "discrete", np.dtype(got.dtype).kind == "f"
    expected = f"{spec.n} discrete ones" if discrete else f"{spec.dtype.name} {list(spec.shape)}"
    if got.shape != spec.shape or is_float is not (spec.dtype.kind == "f"):
        what = "actions" if name.startswith("action") else f"observations '{name}'"
        raise DatasetError(
            f"data set {data.path} has {what} {got.dtype} {list(got.shape)}, {env} takes {expected}; use data of this "
            "env, or the env and policy of the data"
        )
    if name.startswith("action"):
        column = data.take(np.arange(data.transition_num), [name])[name]
        low, high = (torch.tensor(np.broadcast_to(x, spec.shape), dtype=torch.float64) for x in (spec.low, spec.high))
        if (column < low - _SLACK).any() or (column > high + _SLACK).any():
            raise DatasetError(
                f"data set {data.path} has actions from {column.min().item():g} to {column.max().item():g}, {env} "
                f"takes {low.min().item():g} to {high.max().item():g}; record the actions as the agent gives them, or "
                "set the env's action scaling (scale_action, use_act_scale) as it was when they were recorded"
            )


def _leaves(name: str, spec: Any) -> dict[str, LeafSpec]:
    if isinstance(spec, LeafSpec):
        return {name: spec}
    return {path: leaf for key, part in spec.items() for path, leaf in _leaves(f"{name}/{key}", part).items()}
