"""Thermostat: keep a room near its target temperature with a heater of three levels."""

import gymnasium as gym
import numpy as np


class ThermostatEnv(gym.Env):
    """Observation: room temperature, outside temperature, target. Action: heater off, half, full. Runs for a shift."""

    metadata = {"render_modes": []}

    def __init__(self, max_steps=150, render_mode=None):
        self.render_mode = render_mode
        self.max_steps = max_steps
        self.observation_space = gym.spaces.Box(-60.0, 80.0, (3,), np.float32)
        self.action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.room = self.np_random.uniform(10.0, 25.0)
        self.outside = self.np_random.uniform(-10.0, 10.0)
        self.target = self.np_random.uniform(18.0, 22.0)
        self.t = 0
        return self._obs(), {}

    def step(self, action):
        self.t += 1
        self.room += 0.05 * (self.outside - self.room) + 1.2 * int(action)
        self.outside = float(np.clip(self.outside + self.np_random.normal(0.0, 0.2), -20.0, 20.0))
        error = abs(self.room - self.target)
        reward = float(np.exp(-error / 3.0)) - 0.05 * int(action)
        done = self.t >= self.max_steps
        return self._obs(), reward, done, False, {"error": error}

    def _obs(self):
        return np.array([self.room, self.outside, self.target], np.float32)


gym.register(id="Thermostat-v0", entry_point=ThermostatEnv)
