"""Plain PyTorch with CleanRL's settings: DQN, one env (or those of the job, where it says so)."""

from typing import Any

import numpy as np
import torch
from driver import Clock, Solver, emit, settings
from plain import PACKAGES, Buffer, Nature, make_envs, perceptron, seeded
from torch import nn


def network(given: dict[str, Any], obs_dim: int, action_dim: int) -> nn.Module:
    if given["network"] == "nature":
        return nn.Sequential(Nature(), nn.Linear(512, action_dim))
    return perceptron([obs_dim, *given["network"], action_dim], nn.ReLU)


class Training:
    """The loop."""

    def __init__(self, given: dict[str, Any]) -> None:
        self._given = given
        self.num, self.updates = given.get("own_env_num", 1), given.get("own_updates", 1)
        self.every = given["env_num"] * self.updates // (given["updates"] * self.num) or 1  # vector steps per update
        seeded(given)
        self._envs = make_envs(given, self.num)
        shape = self._envs.single_observation_space.shape
        self._actions = int(self._envs.single_action_space.n)
        self.net, self._target = (network(given, int(np.prod(shape)), self._actions) for _ in range(2))
        self._target.load_state_dict(self.net.state_dict())
        self._optimizer = torch.optim.Adam(self.net.parameters(), lr=given["learning_rate"])
        kind = self._envs.single_observation_space.dtype
        self._buffer = Buffer(given["buffer_size"], {
            "obs": (shape, kind), "next_obs": (shape, kind), "action": ((), np.int64), "reward": ((), np.float32),
            "done": ((), np.float32),
        })  # fmt: skip
        self.step = self.update = 0

    def run(self, until: int, check: Any) -> None:
        """Trains until the env step ``until``; ``check`` is called with the env step."""
        given = self._given
        obs, _ = self._envs.reset(seed=given["seed"])
        begins = np.zeros(self.num, dtype=bool)
        while self.step < until:
            part = min(self.step / given["eps_step"], 1.0)
            eps = given["eps_start"] + part * (given["eps_end"] - given["eps_start"])
            action = np.random.randint(0, self._actions, self.num)
            if np.random.rand() > eps:
                action = self.greedy(obs)
            next_obs, reward, terminated, truncated, _ = self._envs.step(action)
            kept = ~begins  # the step after an episode's end is its reset
            self._buffer.add(obs=obs[kept], next_obs=next_obs[kept], action=action[kept], reward=reward[kept],
                             done=terminated[kept])  # fmt: skip
            obs, begins = next_obs, terminated | truncated
            self.step += self.num
            if self.step > given["learning_starts"] and self.step // self.num % self.every == 0:
                for _ in range(self.updates):
                    self._learn()
            check(self.step)

    @torch.no_grad()
    def greedy(self, obs: np.ndarray) -> np.ndarray:
        """Returns greedy actions."""
        action: np.ndarray = self.net(torch.from_numpy(np.asarray(obs))).argmax(1).numpy()
        return action

    def _learn(self) -> None:
        given, batch = self._given, self._buffer.sample(self._given["batch_size"])
        with torch.no_grad():
            after = self._target(batch["next_obs"]).max(1).values
            target = batch["reward"] + given["gamma"] * after * (1 - batch["done"])
        value = self.net(batch["obs"]).gather(1, batch["action"][:, None]).squeeze(1)
        loss = nn.functional.mse_loss(value, target)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        self.update += 1
        if self.update % given["target_update_freq"] == 0:
            self._target.load_state_dict(self.net.state_dict())


def main() -> None:
    given = settings()
    training = Training(given)
    if "goal" in given:
        solver = Solver(given, training.greedy)
        solver.run(lambda: training.run(given["max_steps"], solver.check), *PACKAGES)
        return
    clock, begin, first = Clock(), (0, 0), given["learning_starts"] + given["warm_steps"]

    def check(step: int) -> None:
        nonlocal clock, begin
        if begin == (0, 0) and step >= first:
            clock, begin = Clock(), (step, training.update)

    training.run(first + given["steps"], check)
    cost = clock.read()
    step, update = training.step - begin[0], training.update - begin[1]
    amount = update if given["count"] == "update" else step
    emit(given, given["count"], amount, cost, *PACKAGES, env_step=step, update=update)


if __name__ == "__main__":
    main()
