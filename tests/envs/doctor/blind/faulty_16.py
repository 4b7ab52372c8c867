"""Lane keeping: steer a car along a road that bends; frames are kept so that an episode can be shown later."""

import numpy as np

from nervex.envs import BaseEnv, BaseEnvInfo, BaseEnvTimestep, EnvElementInfo, register_env


class LaneEnv(BaseEnv):
    """Observation: offset from the middle, heading, bend ahead. Leaving the lane ends the episode."""

    def __init__(self, cfg):
        self._max_step = cfg.get("max_step", 100)
        self._rng = None
        self._seed = None
        self._frames = []

    def reset(self):
        if self._seed is not None or self._rng is None:
            self._rng = np.random.default_rng(self._seed)
            self._seed = None
        self._offset = float(self._rng.uniform(-0.3, 0.3))
        self._heading = 0.0
        self._bend = float(self._rng.uniform(-0.05, 0.05))
        self._step_count = 0
        self._return = 0.0
        self._keep_frame()
        return self._obs()

    def step(self, action):
        self._heading += 0.06 * (int(action) - 1) + self._bend
        self._heading = float(np.clip(self._heading, -1.0, 1.0))
        self._offset += 0.1 * np.sin(self._heading)
        self._bend = float(np.clip(self._bend + self._rng.normal(0.0, 0.01), -0.05, 0.05))
        self._step_count += 1
        terminated = bool(abs(self._offset) > 1.0)
        truncated = not terminated and self._step_count >= self._max_step
        reward = -1.0 if terminated else 1.0 - abs(float(self._offset))
        self._return += reward
        self._keep_frame()
        info = {"truncated": truncated}
        if terminated or truncated:
            info["final_eval_reward"] = self._return
        return BaseEnvTimestep(self._obs(), reward, terminated or truncated, info)

    def seed(self, seed):
        self._seed = seed

    def close(self):
        self._rng = None
        self._frames = []

    def info(self):
        return BaseEnvInfo(
            agent_num=1,
            obs_space=EnvElementInfo(3, {"min": -1.2, "max": 1.2, "dtype": np.float32}),
            act_space=EnvElementInfo(3, {"min": 0, "max": 2, "dtype": np.int64, "kind": "discrete"}),
            rew_space=EnvElementInfo(1, {"min": -1.0, "max": 1.0, "dtype": np.float32}),
        )

    def __repr__(self):
        return "LaneEnv()"

    def _keep_frame(self):
        frame = np.full((120, 160, 3), 60, np.uint8)
        column = round(80 + 50 * max(-1.2, min(1.2, self._offset)))
        frame[90:110, column - 3 : column + 4] = (200, 30, 30)
        self._frames.append(frame)

    def _obs(self):
        return np.array([self._offset, self._heading, self._bend], np.float32)


register_env("lane", LaneEnv)
