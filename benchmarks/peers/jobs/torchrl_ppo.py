"""TorchRL: PPO on vectors."""

from typing import Any

import numpy as np
import torch
from driver import Clock, Solver, emit, settings
from tensordict.nn import TensorDictModule
from torch import nn
from torch.distributions import Categorical
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.data.replay_buffers.samplers import SamplerWithoutReplacement
from torchrl.envs import GymEnv, SerialEnv
from torchrl.modules import MLP, ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

PACKAGES = ("torchrl", "tensordict", "torch", "gymnasium")


def network(given: dict[str, Any], obs_dim: int, out: int, gain: float) -> MLP:
    """Returns hidden layers with tanh between them, orthogonal."""
    net = MLP(in_features=obs_dim, out_features=out, num_cells=given["network"], activation_class=nn.Tanh)
    layers = [layer for layer in net.modules() if isinstance(layer, nn.Linear)]
    for layer in layers:
        nn.init.orthogonal_(layer.weight, gain if layer is layers[-1] else 2**0.5)
        nn.init.zeros_(layer.bias)
    return net


class Training:
    """The loop."""

    def __init__(self, given: dict[str, Any]) -> None:
        self._given = given
        torch.manual_seed(given["seed"])
        np.random.seed(given["seed"])
        env = SerialEnv(given["env_num"], lambda: GymEnv(given["env"], categorical_action_encoding=True))
        env.set_seed(given["seed"])
        one = GymEnv(given["env"], categorical_action_encoding=True)
        obs_dim = one.observation_spec["observation"].shape[-1]
        self.policy = network(given, obs_dim, one.action_spec.n, 0.01)
        actor = ProbabilisticActor(
            TensorDictModule(self.policy, in_keys=["observation"], out_keys=["logits"]), in_keys=["logits"],
            distribution_class=Categorical, return_log_prob=True,
        )  # fmt: skip
        critic = ValueOperator(network(given, obs_dim, 1, 1.0), in_keys=["observation"])
        self._rows = given["n_steps"] * given["env_num"]
        self._collector = Collector(env, actor, frames_per_batch=self._rows, total_frames=-1,
                                            trust_policy=True)  # fmt: skip
        self._gae = GAE(gamma=given["gamma"], lmbda=given["gae_lambda"], value_network=critic, average_gae=False)
        self._loss = ClipPPOLoss(
            actor, critic, clip_epsilon=given["clip"], entropy_coeff=given["entropy"], critic_coeff=given["value"],
            loss_critic_type="l2", normalize_advantage=True,
        )  # fmt: skip
        self._optimizer = torch.optim.Adam(self._loss.parameters(), lr=given["learning_rate"], eps=1e-5)
        self._buffer = TensorDictReplayBuffer(
            storage=LazyTensorStorage(self._rows), sampler=SamplerWithoutReplacement(), batch_size=given["batch_size"]
        )
        self.step = self.update = 0

    def run(self, until: int, check: Any) -> None:
        """Trains until the env step ``until``; ``check`` is called with the env step after each rollout."""
        for data in self._collector:
            self._learn(data)
            self.step += self._rows
            check(self.step)
            if self.step >= until:
                break

    @torch.no_grad()
    def greedy(self, obs: np.ndarray) -> np.ndarray:
        """Returns greedy actions."""
        action: np.ndarray = self.policy(torch.from_numpy(obs)).argmax(1).numpy()
        return action

    def _learn(self, data: Any) -> None:
        given = self._given
        with torch.no_grad():
            data = self._gae(data)
        self._buffer.empty()
        self._buffer.extend(data.reshape(-1))
        for _ in range(given["epochs"] * self._rows // given["batch_size"]):
            loss = self._loss(self._buffer.sample())
            self._optimizer.zero_grad()
            (loss["loss_objective"] + loss["loss_critic"] + loss["loss_entropy"]).backward()
            nn.utils.clip_grad_norm_(self._loss.parameters(), given["max_grad_norm"])
            self._optimizer.step()
            self.update += 1


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
