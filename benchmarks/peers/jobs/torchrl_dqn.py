"""TorchRL: DQN on vectors."""

import numpy as np
import torch
from driver import Clock, emit, settings
from tensordict.nn import TensorDictSequential
from torch import nn
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import GymEnv, SerialEnv
from torchrl.modules import MLP, EGreedyModule, QValueActor
from torchrl.objectives import DQNLoss, HardUpdate

PACKAGES = ("torchrl", "tensordict", "torch", "gymnasium")


def main() -> None:
    given = settings()
    torch.manual_seed(given["seed"])
    np.random.seed(given["seed"])
    num = given["env_num"]
    env = SerialEnv(num, lambda: GymEnv(given["env"], categorical_action_encoding=True))
    env.set_seed(given["seed"])
    one = GymEnv(given["env"], categorical_action_encoding=True)
    obs_dim = one.observation_spec["observation"].shape[-1]
    net = MLP(in_features=obs_dim, out_features=one.action_spec.n, num_cells=given["network"],
              activation_class=nn.ReLU)  # fmt: skip
    actor = QValueActor(net, in_keys=["observation"], spec=one.action_spec, action_space="categorical")
    actor(env.reset())
    explore = EGreedyModule(spec=one.action_spec, annealing_num_steps=given["eps_step"], eps_init=given["eps_start"],
                            eps_end=given["eps_end"])  # fmt: skip
    collector = Collector(
        env, TensorDictSequential(actor, explore), frames_per_batch=num, total_frames=-1,
        init_random_frames=given["learning_starts"], trust_policy=True,
    )  # fmt: skip
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(given["buffer_size"]), batch_size=given["batch_size"])
    loss = DQNLoss(actor, loss_function="l2", delay_value=True, double_dqn=False, action_space="categorical")
    loss.make_value_estimator(gamma=given["gamma"])
    target = HardUpdate(loss, value_network_update_interval=given["target_update_freq"])
    optimizer = torch.optim.Adam(loss.parameters(), lr=given["learning_rate"])
    first = given["learning_starts"] + given["warm_steps"]
    step, update, begin, clock = 0, 0, (0, 0), Clock()
    for data in collector:
        buffer.extend(data.reshape(-1))
        explore.step(num)
        step += num
        for _ in range(given["updates"] if step > given["learning_starts"] else 0):
            optimizer.zero_grad()
            loss(buffer.sample())["loss"].backward()
            optimizer.step()
            target.step()
            update += 1
        if begin == (0, 0) and step >= first:
            begin, clock = (step, update), Clock()
        if step >= first + given["steps"]:
            break
    cost = clock.read()
    step, update = step - begin[0], update - begin[1]
    amount = update if given["count"] == "update" else step
    emit(given, given["count"], amount, cost, *PACKAGES, env_step=step, update=update)


if __name__ == "__main__":
    main()
