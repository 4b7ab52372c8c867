"""Crane: lift a load that swings; the simulator has a lock, callbacks and a generator and lives in its process."""

import threading

import numpy as np

from nervex.envs import BaseEnv, BaseEnvInfo, BaseEnvTimestep, EnvElementInfo, register_env


class _Simulator:
    """What cannot be pickled nor copied; made at the first reset, in the process that steps it."""

    def __init__(self):
        self.lock = threading.Lock()
        self.on_step = lambda swing: abs(swing) > 1.2

    def start(self, rng):
        self.rng = rng
        self.ticks = self._run()
        self.force = 0.0
        return next(self.ticks)

    def tick(self, force):
        with self.lock:
            self.force = force
            return next(self.ticks)

    def _run(self):
        height, swing, speed = 0.0, float(self.rng.uniform(-1.19, 1.19)), 0.0
        while True:
            yield height, swing, speed
            speed = float(np.clip(speed - 0.1 * swing + 0.15 * self.force + self.rng.normal(0.0, 0.02), -2.0, 2.0))
            swing += 0.2 * speed
            height = min(height + (0.03 if abs(swing) < 0.3 else 0.0), 1.0)


class CraneEnv(BaseEnv):
    """Observation: height, swing, speed of the swing. The load is up at 1; a swing beyond 1.2 ends it."""

    def __init__(self, cfg):
        self._max_step = cfg.get("max_step", 100)
        self._simulator = None
        self._rng = None
        self._seed = None

    def reset(self):
        if self._simulator is None:
            self._simulator = _Simulator()
        if self._seed is not None or self._rng is None:
            self._rng = np.random.default_rng(self._seed)
            self._seed = None
        self._step_count = 0
        self._return = 0.0
        return self._obs(self._simulator.start(self._rng))

    def step(self, action):
        state = self._simulator.tick((-1.0, 0.0, 1.0)[int(action)])
        self._step_count += 1
        crashed = self._simulator.on_step(state[1])
        up = not crashed and state[0] >= 1.0
        truncated = not (crashed or up) and self._step_count >= self._max_step
        reward = -5.0 if crashed else 5.0 if up else -0.02
        self._return += reward
        info = {"truncated": truncated}
        if crashed or up or truncated:
            info["final_eval_reward"] = self._return
        return BaseEnvTimestep(self._obs(state), reward, crashed or up or truncated, info)

    def seed(self, seed):
        self._seed = seed

    def close(self):
        self._simulator = None
        self._rng = None

    def info(self):
        return BaseEnvInfo(
            agent_num=1,
            obs_space=EnvElementInfo(3, {"min": -2.0, "max": 2.0, "dtype": np.float32}),
            act_space=EnvElementInfo(3, {"min": 0, "max": 2, "dtype": np.int64, "kind": "discrete"}),
            rew_space=EnvElementInfo(1, {"min": -5.0, "max": 5.0, "dtype": np.float32}),
        )

    def __repr__(self):
        return "CraneEnv()"

    def _obs(self, state):
        return np.array(state, np.float32)


register_env("crane", CraneEnv)
