"""Games in EnvPool, under the same calls as consoles of ``ale_py``."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from app_zoo.atari.envs.games import Game, Moves
from nervex.worker.actor.env_manager.envpool_engine import EnvPoolEngine


class PoolGames:
    """``B`` lanes of one game in EnvPool. Differs from ``Consoles`` in what EnvPool does itself: 1 to ``noop_max``
    frames without action at the beginning (there 0 to ``noop_max - 1``), a first observation of equal frames (there
    black before the first), and seeds at the making of the pool only.

    Args:
        game: which game.
        lane_num: number of lanes.
        cfg: keys of ``AtariEnvConfig``.
    """

    seeded = False

    def __init__(self, game: Game, lane_num: int, cfg: Mapping[str, Any]) -> None:
        options = {
            "max_episode_steps": -(-cfg["max_episode_frames"] // cfg["frame_skip"]),
            "repeat_action_probability": cfg["repeat_action_probability"],
            "full_action_space": cfg["full_action_space"],
            "img_height": cfg["screen_size"],
            "img_width": cfg["screen_size"],
            "gray_scale": cfg["grayscale"],
            "stack_num": cfg["frame_stack"],
            "frame_skip": cfg["frame_skip"],
            "noop_max": max(cfg["noop_max"], 1),
            "use_fire_reset": cfg["fire_reset"],
            "episodic_life": False,
            "reward_clip": False,
        }
        self._engine = EnvPoolEngine(f"{game.name}-v5", lane_num, options)

    def reset(self, seed: np.ndarray, out: np.ndarray) -> np.ndarray:
        """See ``Consoles``."""
        out[:], info = self._engine.reset(seed)
        return np.asarray(info["lives"], np.int64)

    def begin(self, lane_id: np.ndarray, seed: np.ndarray, out: np.ndarray) -> np.ndarray:
        """See ``Consoles``; EnvPool takes no seed here."""
        out[lane_id], info = self._engine.begin(lane_id)
        return np.asarray(info["lives"], np.int64)

    def act(self, lane_id: np.ndarray, action: np.ndarray, out: np.ndarray) -> Moves:
        """See ``Consoles``."""
        step = self._engine.step(action.astype(np.int32), lane_id)
        out[lane_id] = step.obs
        lives = np.asarray(step.info["lives"], np.int64)
        return step.reward, step.terminated, step.truncated & ~step.terminated, lives

    def announce(self, lane_id: np.ndarray, seed: np.ndarray) -> None:
        """Nothing is prepared."""

    def close(self) -> None:
        """Frees the pool."""
        self._engine.close()
