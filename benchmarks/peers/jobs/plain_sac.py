"""Plain PyTorch with CleanRL's settings: SAC, an update of critics, actor and temperature per env step."""

from typing import Any

import numpy as np
import torch
from driver import Clock, Solver, emit, settings
from plain import PACKAGES, Buffer, make_envs, perceptron, seeded
from torch import nn

LOW, HIGH = -5.0, 2.0  # of the logarithm of the standard deviation


class Actor(nn.Module):
    """A normal distribution that tanh squashes into the bounds of the action space."""

    def __init__(self, obs_dim: int, hidden: list[int], space: Any) -> None:
        super().__init__()
        self.main = perceptron([obs_dim, *hidden, 2 * space.shape[0]], nn.ReLU)
        self.scale = torch.as_tensor((space.high - space.low) / 2)
        self.shift = torch.as_tensor((space.high + space.low) / 2)

    def forward(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns actions, their log-probabilities [B, 1], and the actions of the mean."""
        mean, spread = self.main(obs).chunk(2, dim=-1)
        spread = LOW + (HIGH - LOW) / 2 * (spread.tanh() + 1)
        normal = torch.distributions.Normal(mean, spread.exp())
        drawn = normal.rsample()
        squashed = drawn.tanh()
        logp = normal.log_prob(drawn) - (self.scale * (1 - squashed.pow(2)) + 1e-6).log()
        return squashed * self.scale + self.shift, logp.sum(1, keepdim=True), mean.tanh() * self.scale + self.shift


class Critic(nn.Module):
    """A value of an action."""

    def __init__(self, obs_dim: int, action_dim: int, hidden: list[int]) -> None:
        super().__init__()
        self.main = perceptron([obs_dim + action_dim, *hidden, 1], nn.ReLU)

    def forward(self, obs: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        value: torch.Tensor = self.main(torch.cat([obs, action], 1))
        return value


class Training:
    """The loop."""

    def __init__(self, given: dict[str, Any]) -> None:
        self._given = given
        seeded(given)
        self._envs = make_envs(given, 1)
        self._space = self._envs.single_action_space
        sizes = int(np.prod(self._envs.single_observation_space.shape)), int(self._space.shape[0])
        rate, hidden = given["learning_rate"], given["hidden"]
        self.actor = Actor(sizes[0], hidden, self._space)
        self._critics, self._targets = ([Critic(*sizes, hidden) for _ in range(2)] for _ in range(2))
        for critic, target in zip(self._critics, self._targets, strict=True):
            target.load_state_dict(critic.state_dict())
        self._log_alpha = torch.zeros(1, requires_grad=True)
        self._actor_optimizer = torch.optim.Adam(self.actor.parameters(), lr=rate)
        self._critic_optimizer = torch.optim.Adam([p for c in self._critics for p in c.parameters()], lr=rate)
        self._alpha_optimizer = torch.optim.Adam([self._log_alpha], lr=rate)
        self._buffer = Buffer(given["buffer_size"], {
            "obs": ((sizes[0],), np.float32), "next_obs": ((sizes[0],), np.float32),
            "action": ((sizes[1],), np.float32), "reward": ((1,), np.float32), "done": ((1,), np.float32),
        })  # fmt: skip
        self.step = self.update = 0

    def run(self, until: int, check: Any) -> None:
        """Trains until the env step ``until``; ``check`` is called with the env step."""
        given, begins = self._given, False
        obs, _ = self._envs.reset(seed=given["seed"])
        while self.step < until:
            learns = self.step >= given["learning_starts"]
            action = self._drawn(obs) if learns else np.array([self._space.sample()])
            next_obs, reward, terminated, truncated, _ = self._envs.step(action)
            if not begins:  # the step after an episode's end is its reset
                self._buffer.add(obs=obs, next_obs=next_obs, action=action, reward=reward[:, None],
                                 done=terminated[:, None])  # fmt: skip
            obs, begins = next_obs, bool(terminated[0] or truncated[0])
            self.step += 1
            if learns:
                self._learn()
            check(self.step)

    @torch.no_grad()
    def greedy(self, obs: np.ndarray) -> np.ndarray:
        """Returns the actions of the mean."""
        action: np.ndarray = self.actor(torch.from_numpy(obs))[2].numpy()
        return action

    @torch.no_grad()
    def _drawn(self, obs: np.ndarray) -> np.ndarray:
        action: np.ndarray = self.actor(torch.as_tensor(obs, dtype=torch.float32))[0].numpy()
        return action

    def _learn(self) -> None:
        given, batch = self._given, self._buffer.sample(self._given["batch_size"])
        alpha = self._log_alpha.exp().detach()
        with torch.no_grad():
            action, logp, _ = self.actor(batch["next_obs"])
            after = torch.min(*(target(batch["next_obs"], action) for target in self._targets)) - alpha * logp
            goal = batch["reward"] + given["gamma"] * (1 - batch["done"]) * after
        values = [critic(batch["obs"], batch["action"]) for critic in self._critics]
        _step(self._critic_optimizer, sum(nn.functional.mse_loss(value, goal) for value in values))
        action, logp, _ = self.actor(batch["obs"])
        value = torch.min(*(critic(batch["obs"], action) for critic in self._critics))
        _step(self._actor_optimizer, (alpha * logp - value).mean())
        entropy = logp.detach() - float(self._space.shape[0])
        _step(self._alpha_optimizer, -(self._log_alpha.exp() * entropy).mean())
        for critic, target in zip(self._critics, self._targets, strict=True):
            for p, q in zip(critic.parameters(), target.parameters(), strict=True):
                q.data.lerp_(p.data, given["tau"])
        self.update += 1


def _step(optimizer: torch.optim.Optimizer, loss: Any) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def main() -> None:
    given = settings()
    training = Training(given)
    if "goal" in given:
        solver = Solver(given, training.greedy)
        solver.run(lambda: training.run(given["max_steps"], solver.check), *PACKAGES)
        return
    clock, first = Clock(), given["learning_starts"] + given["warm_steps"]

    def check(step: int) -> None:
        nonlocal clock
        if step == first:
            clock = Clock()

    training.run(first + given["steps"], check)
    emit(given, given["count"], given["steps"], clock.read(), *PACKAGES, env_step=given["steps"], update=given["steps"])


if __name__ == "__main__":
    main()
