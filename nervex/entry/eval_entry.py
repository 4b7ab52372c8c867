"""Evaluates the policy of a run folder, and films it."""

import copy
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from nervex.config.source import apply_overrides, read_source
from nervex.data.lanes import LaneBlock
from nervex.entry.compile_config import CompiledConfig, EnvSetting, compile_config
from nervex.entry.serial_parts import build_evaluator, build_policy
from nervex.envs.base_env import spec_tree
from nervex.policy.base_policy import Policy
from nervex.torch_utils.checkpoint import load_weights
from nervex.torch_utils.seeds import set_seed
from nervex.utils.errors import CheckpointError, ConfigError, NerveXError
from nervex.utils.tree import tree_map
from nervex.utils.video import VIDEO_SUFFIXES, write_video
from nervex.worker.actor.serial_evaluator import EvalResult
from nervex.worker.monitor.run_folder import RunFolder


@dataclass(frozen=True)
class Evaluation:
    """Outcome of :func:`evaluate_run`: the episodes, and the video with its number of frames, if one was wanted."""

    result: EvalResult
    video: Path | None = None
    frame_num: int = 0


class TrainedPolicy(NamedTuple):
    """A policy with the weights of a run's best evaluation, and the configuration of the run."""

    compiled: CompiledConfig
    policy: Policy


def trained_policy(
    run_dir: str | Path,
    env_setting: EnvSetting | None = None,
    policy_type: Any = None,
    model_type: Any = None,
    model: Any = None,
    overrides: Iterable[str] = (),
) -> TrainedPolicy:
    """Builds the policy of a run folder; everything random is seeded with the run's seed.

    Args:
        run_dir: folder of the run.
        env_setting, policy_type, model_type, model: what the run was given from Python, if it was.
        overrides: ``key=value`` texts.
    """
    folder = RunFolder.open(run_dir)
    source = apply_overrides(read_source(folder.config_path), overrides)
    compiled = compile_config(source, env_setting, policy_type, model_type, model_given=model is not None)
    cfg = compiled.cfg
    set_seed(cfg.seed)
    torch.set_num_threads(cfg.torch_threads or 1)
    policy = build_policy(compiled, model)
    try:
        policy.model.load_state_dict(load_weights(folder.path))
    except RuntimeError as e:
        if isinstance(e, NerveXError):
            raise
        raise CheckpointError(f"the weights in {folder.path} do not fit its configuration: {e}") from e
    return TrainedPolicy(compiled, policy)


def evaluate_run(
    run_dir: str | Path,
    n_episode: int = 20,
    seed: int | None = None,
    video: str | Path | None = None,
    env_setting: EnvSetting | None = None,
    policy_type: Any = None,
    model_type: Any = None,
    model: Any = None,
) -> Evaluation:
    """Plays fresh episodes with the weights of a run's best evaluation.

    Args:
        run_dir: folder of the run.
        n_episode: episodes.
        seed: of the episodes; None: others than those of training.
        video: MP4 file to write one more episode to.
        env_setting, policy_type, model_type, model: what the run was given from Python, if it was.
    """
    if n_episode < 1:
        raise ConfigError(f"the number of episodes is {n_episode}; expected at least 1")
    if video is not None and Path(video).suffix.lower() not in VIDEO_SUFFIXES:
        raise ConfigError(f"the video {video} has no known ending; expected one of {', '.join(VIDEO_SUFFIXES)}")
    if seed is not None and seed < 0:
        raise ConfigError(f"the seed is {seed}; expected at least 0")
    compiled, policy = trained_policy(run_dir, env_setting, policy_type, model_type, model)
    number = (compiled.cfg.seed + 1) * 7919 if seed is None else seed
    evaluator = build_evaluator(compiled, policy, number, min(n_episode, len(compiled.evaluator_env_cfg)))
    try:
        result = evaluator.evaluate(n_episode)
    finally:
        evaluator.close()
    if video is None:
        return Evaluation(result)
    path = Path(video)
    return Evaluation(result, path, write_video(path, _frames(compiled, policy.eval_mode, number)))


def _frames(compiled: CompiledConfig, eval_mode: Any, seed: int) -> Iterator[np.ndarray]:
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # no window, also where there is no screen
    cfg = {**copy.deepcopy(compiled.evaluator_env_cfg[0]), "render_mode": "rgb_array"}
    env = compiled.env_fn(cfg)
    if not hasattr(env, "render"):
        raise ConfigError(f"env {env!r} has no render(); a video needs one that returns an image uint8 [H, W, 3]")
    discrete = getattr(spec_tree(compiled.info.act_space, is_action=True), "kind", "") == "discrete"
    try:
        env.seed(seed)
        obs = env.reset()
        eval_mode.reset()
        done = False
        yield env.render()
        while not done:
            batch = tree_map(lambda x: torch.as_tensor(x).unsqueeze(0), obs)
            with torch.inference_mode():
                lane_id, data = eval_mode.data_preprocess(LaneBlock(np.zeros(1, dtype=np.int64), batch))
                action: Any = tree_map(lambda x: x[0].cpu().numpy(), eval_mode.forward(lane_id, data)["action"])
            obs, _, done, _ = env.step(int(action) if discrete else action)
            yield env.render()
    finally:
        env.close()
