"""Plain PyTorch with CleanRL's settings: PPO; with ``compile`` the loss of a minibatch is compiled, as LeanRL does."""

from typing import Any

import numpy as np
import torch
from driver import Clock, Solver, emit, settings
from plain import PACKAGES, Nature, make_envs, perceptron, seeded
from torch import nn
from torch.distributions import Categorical


class Net(nn.Module):
    """Policy and value: two networks on vectors, one with two heads on frames."""

    def __init__(self, given: dict[str, Any], obs_dim: int, action_dim: int) -> None:
        super().__init__()
        if given["network"] == "nature":
            self.body: nn.Module = Nature()
            self.policy, self.value = perceptron([512, action_dim], nn.Tanh, 0.01), perceptron([512, 1], nn.Tanh, 1.0)
        else:
            self.body = nn.Identity()
            self.policy = perceptron([obs_dim, *given["network"], action_dim], nn.Tanh, 0.01)
            self.value = perceptron([obs_dim, *given["network"], 1], nn.Tanh, 1.0)

    def forward(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.body(obs)
        return self.policy(x), self.value(x).squeeze(-1)


class Training:
    """The loop."""

    def __init__(self, given: dict[str, Any]) -> None:
        self._given = given
        seeded(given)
        self._envs = make_envs(given, given["env_num"])
        self._shape = self._envs.single_observation_space.shape
        self.net = Net(given, int(np.prod(self._shape)), int(self._envs.single_action_space.n))
        self._optimizer = torch.optim.Adam(self.net.parameters(), lr=given["learning_rate"], eps=1e-5)
        self._loss = torch.compile(self._eager_loss) if given.get("compile") else self._eager_loss
        self._obs = torch.as_tensor(self._envs.reset(seed=given["seed"])[0])
        self._done = torch.zeros(given["env_num"])
        self.step = self.update = 0

    def run(self, until: int, check: Any) -> None:
        """Trains until the env step ``until``; ``check`` is called with the env step after each rollout."""
        while self.step < until:
            self._learn(*self._collect())
            check(self.step)

    @torch.no_grad()
    def greedy(self, obs: np.ndarray) -> np.ndarray:
        """Returns greedy actions."""
        action: np.ndarray = self.net(torch.from_numpy(obs))[0].argmax(1).numpy()
        return action

    @torch.no_grad()
    def _collect(self) -> tuple[torch.Tensor, ...]:
        given = self._given
        time, num = given["n_steps"], given["env_num"]
        obs = torch.zeros((time, num, *self._shape), dtype=self._obs.dtype)
        action = torch.zeros((time, num), dtype=torch.long)
        logp, reward, done, value = (torch.zeros((time, num)) for _ in range(4))
        for t in range(time):
            obs[t], done[t] = self._obs, self._done
            logit, value[t] = self.net(self._obs)
            policy = Categorical(logits=logit)
            action[t] = policy.sample()
            logp[t] = policy.log_prob(action[t])
            now, gain, terminated, truncated, _ = self._envs.step(action[t].numpy())
            reward[t] = torch.as_tensor(gain)
            self._obs, self._done = torch.as_tensor(now), torch.as_tensor(terminated | truncated).float()
        self.step += time * num
        after, ended, adv, advantage = self.net(self._obs)[1], self._done, torch.zeros_like(reward), 0.0
        for t in reversed(range(time)):
            delta = reward[t] + given["gamma"] * after * (1 - ended) - value[t]
            advantage = adv[t] = delta + given["gamma"] * given["gae_lambda"] * (1 - ended) * advantage
            after, ended = value[t], done[t]
        return tuple(x.flatten(0, 1) for x in (obs, action, logp, adv, adv + value))

    def _learn(self, *rows: torch.Tensor) -> None:
        given, count = self._given, len(rows[0])
        for _ in range(given["epochs"]):
            order = torch.randperm(count)
            for first in range(0, count, given["batch_size"]):
                index = order[first : first + given["batch_size"]]
                loss = self._loss(*(x[index] for x in rows))
                self._optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.net.parameters(), given["max_grad_norm"])
                self._optimizer.step()
                self.update += 1

    def _eager_loss(self, obs: torch.Tensor, action: torch.Tensor, logp: torch.Tensor, adv: torch.Tensor,
                    target: torch.Tensor) -> torch.Tensor:  # fmt: skip
        given = self._given
        logit, value = self.net(obs)
        policy = Categorical(logits=logit, validate_args=False)
        adv = (adv - adv.mean()) / (adv.std() + 1e-8)
        ratio = (policy.log_prob(action) - logp).exp()
        surrogate = torch.min(ratio * adv, ratio.clamp(1 - given["clip"], 1 + given["clip"]) * adv).mean()
        value_loss = (value - target).pow(2).mean()
        return given["value"] * value_loss - surrogate - given["entropy"] * policy.entropy().mean()


def main() -> None:
    given = settings()
    training = Training(given)
    if "goal" in given:
        solver = Solver(given, training.greedy)
        solver.run(lambda: training.run(given["max_steps"], solver.check), *PACKAGES)
        return
    training.run(given["warm_steps"], lambda step: None)
    clock, step, update = Clock(), training.step, training.update
    training.run(step + given["steps"], lambda step: None)
    cost = clock.read()
    step, update = training.step - step, training.update - update
    amount = update if given["count"] == "update" else step
    emit(given, given["count"], amount, cost, *PACKAGES, env_step=step, update=update)


if __name__ == "__main__":
    main()
