"""Small serial runs for the tests of the entry, and how their results are compared."""

from pathlib import Path
from typing import Any

import torch

from nervex.entry import serial_pipeline
from nervex.entry.catalog import find_config
from nervex.torch_utils.checkpoint import CheckpointManager
from nervex.utils.config_helper import read_config
from nervex.worker.monitor.jsonl_sink import read_metrics
from nervex.worker.monitor.sink import without_time

RESULT_KEYS = {"policy", "env", "seed", "stop_reason", "best_eval_return", "last_eval_return", "env_step", "train_iter",
               "wall_s", "cpu_s", "peak_rss_bytes", "run_dir"}  # fmt: skip


def config(**changes: Any) -> dict[str, Any]:
    """A small CartPole run; ``changes`` are dotted keys with '__' for the dots."""
    cfg = read_config(find_config("cartpole_dqn"))
    base = {"max_env_step": 700, "evaluator__n_episode": 2, "evaluator__eval_freq": 30, "evaluator__stop_val": 1000,
            "learner__log_freq": 50, "env__actor_env_num": 4, "env__evaluator_env_num": 2}  # fmt: skip
    for key, value in {**base, **changes}.items():
        *path, last = key.split("__")
        node = cfg
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return dict(cfg)


def train(run_dir: Path, cfg: dict[str, Any] | None = None, **kwargs: Any) -> Any:
    return serial_pipeline(cfg or config(), seed=kwargs.pop("seed", 1), run_dir=run_dir, show=False, **kwargs)


def rows(run_dir: Path) -> list[dict[str, Any]]:
    return without_time(read_metrics(run_dir / "metrics.jsonl"))


def newest_weights(run_dir: Path) -> dict[str, torch.Tensor]:
    weights = CheckpointManager(run_dir / "checkpoints").load_latest().weights
    assert weights is not None
    return weights


def equal_weights(a: Path, b: Path) -> bool:
    one, two = newest_weights(a), newest_weights(b)
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
