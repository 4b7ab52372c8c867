"""Envs of Gymnasium that count, registered under nervex_test/, for the tests of the adapter."""

import copy

import gymnasium
import numpy as np
from gymnasium import spaces

from nervex.envs.gymnasium_env import GymnasiumEnv

NESTED_OBS = spaces.Dict({"x": spaces.Box(-1.0, 100.0, (2,), np.float64), "mode": spaces.Discrete(3, start=1)})
NESTED_ACT = spaces.Tuple([spaces.Discrete(2, start=5), spaces.Box(0.0, 10.0, (1,), np.float64)])


class CountEnv(gymnasium.Env):
    """Counts its steps in its observation; keeps the actions it was given; reuses one observation array."""

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, *, end=5, stop="terminated", action_space=None, render_mode=None, gain=0.1, table=()):
        self.observation_space = spaces.Box(-1.0, 100.0, (2,), np.float32)
        self.action_space = action_space or spaces.Discrete(2)
        self.render_mode = render_mode
        self.end, self.stop, self.gain = end, stop, gain
        self.table = list(table)
        if table:
            table.clear()
        self.actions, self.seeds, self.options, self.closed = [], [], [], 0
        self._obs = np.zeros(2, np.float32)
        self._note = {"score": np.float32(3.5), "count": 0, "blob": np.zeros(4), "nested": {"a": 1}, "name": "x"}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seeds.append(seed)
        self.options.append(options)
        self._count = 0
        self._obs[:] = (0, self.np_random.random())
        return self._obs, {}

    def step(self, action):
        self.actions.append(action)
        self._count += 1
        self._obs[:] = (self._count, self.np_random.random())
        self._note["count"] = self._count
        ended = self._count == self.end
        terminated, truncated = (
            ended and self.stop in ("terminated", "both"),
            ended and self.stop in ("truncated", "both"),
        )
        return self._obs, self.gain, np.bool_(terminated), np.bool_(truncated), self._note

    def render(self):
        return np.full((4, 6, 3), self._count, np.uint8)

    def close(self):
        self.closed += 1


class NestedEnv(CountEnv):
    """Counts in a nested observation and takes a nested action."""

    def __init__(self):
        super().__init__(action_space=NESTED_ACT)
        self.observation_space = NESTED_OBS

    def reset(self, *, seed=None, options=None):
        obs, info = super().reset(seed=seed)
        return {"x": np.asarray(obs, np.float64), "mode": np.int64(1)}, info

    def step(self, action):
        obs, *rest = super().step(action)
        return {"x": np.asarray(obs, np.float64), "mode": np.int64(1 + self._count % 3)}, *rest


class TextEnv(CountEnv):
    def __init__(self):
        super().__init__()
        self.observation_space = spaces.Text(4)


class OldResetEnv(CountEnv):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0]


class GymEnv:
    """Not a gymnasium.Env at all."""


class FlatFrameEnv(CountEnv):
    def render(self):
        return np.zeros((4, 6), np.uint8)


class ScaleObservation(gymnasium.ObservationWrapper):
    """A wrapper of the user's own."""

    def __init__(self, env, factor=10.0):
        super().__init__(env)
        self.factor = factor

    def observation(self, obs):
        return obs * self.factor


def _missing_package(**kwargs):
    raise ModuleNotFoundError("No module named 'cv2'", name="cv2")


for _name, _entry in {
    "Count-v0": CountEnv,
    "Nested-v0": NestedEnv,
    "Text-v0": TextEnv,
    "OldReset-v0": OldResetEnv,
    "NotGymnasium-v0": GymEnv,
    "FlatFrame-v0": FlatFrameEnv,
    "Missing-v0": _missing_package,
}.items():
    gymnasium.register(f"nervex_test/{_name}", entry_point=_entry)
gymnasium.register("nervex_test/VectorOnly-v0", entry_point=None, vector_entry_point=CountEnv)
gymnasium.register("nervex_test/Limited-v0", entry_point=CountEnv, max_episode_steps=3)


def make(env_id="nervex_test/Count-v0", **cfg):
    return GymnasiumEnv({"env_id": env_id, **cfg})


def inner(env: GymnasiumEnv) -> CountEnv:
    return env._env.unwrapped


def run_episode(env, policy, seed=None):
    """Returns the observations (copied) and timesteps of one episode."""
    if seed is not None:
        env.seed(seed)
    obs, timesteps = [copy.deepcopy(env.reset())], []
    while True:
        timestep = env.step(policy(len(timesteps)))
        timesteps.append(timestep)
        obs.append(copy.deepcopy(timestep.obs))
        if timestep.done:
            return obs, timesteps
