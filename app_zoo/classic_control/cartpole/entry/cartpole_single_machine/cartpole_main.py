"""The quickstart of the tutorial, complete: a network, a computation graph, a learner and a runner of one's own train
DQN on CartPole-v1 until a mean return of 475 over 100 fresh episodes.

    python cartpole_main.py --seed 1
"""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from app_zoo.classic_control.cartpole.envs import CartPoleEnv
from nervex.agent import Agent
from nervex.computation_graph import BaseCompGraph
from nervex.entry.base_single_machine import SingleMachineResult, SingleMachineRunner
from nervex.rl_utils import q_1step_td_data, q_1step_td_error
from nervex.utils import deep_merge_dicts, read_config
from nervex.worker import BaseLearner
from nervex.worker.actor.env_manager import BaseEnvManager
from nervex.worker.agent import create_dqn_actor_agent, create_dqn_evaluator_agent, create_dqn_learner_agent
from nervex.worker.monitor import Budgets, MetricSink, ProgressSink

CONFIG = Path(__file__).with_name("cartpole_single_machine.yaml")


class FCDQN(nn.Module):
    """Fully connected action values, float [B, N] of observations [B, D].

    Args:
        input_dim: D.
        action_dim: number of actions N.
        hidden_dim_list: sizes of the hidden layers.
        dueling: value and advantages in two heads: Q = V + A − mean(A).
        norm: layer norms after the hidden layers.
        device: kept for those who build it as the tutorial does; ``model.cuda()`` moves it.
    """

    def __init__(
        self,
        input_dim: int,
        action_dim: int,
        hidden_dim_list: Sequence[int] = (128, 256, 256),
        dueling: bool = False,
        norm: bool = False,
        device: str = "cpu",
    ) -> None:
        super().__init__()
        self.act = nn.ReLU()
        layers: list[nn.Module] = []
        for dim in hidden_dim_list:
            layers += [nn.Linear(input_dim, dim), *([nn.LayerNorm(dim)] if norm else []), self.act]
            input_dim = dim
        self.main = nn.Sequential(*layers)
        self.action_dim = action_dim
        self.pred = nn.Linear(input_dim, action_dim)
        self.value = nn.Linear(input_dim, 1) if dueling else None
        self.device = device

    def forward(self, x: Mapping[str, Tensor], info: Any = None) -> dict[str, Tensor]:
        """Returns ``{'logit': float [B, N]}`` of ``{'obs': float [B, D]}``."""
        hidden = self.main(x["obs"])
        logit = self.pred(hidden)
        if self.value is not None:
            logit = self.value(hidden) + logit - logit.mean(dim=-1, keepdim=True)
        return {"logit": logit}


class CartPoleDqnGraph(BaseCompGraph):
    """The 1-step loss of DQN, that of the chapter but for one thing: with a target network the bootstrapping action is
    the online network's choice (double DQN, van Hasselt et al. 2016, https://arxiv.org/abs/1509.06461, eq. 4)."""

    def __init__(self, cfg: Any) -> None:
        self._gamma = cfg.dqn.discount_factor

    def forward(self, data: dict[str, Any], agent: Agent) -> dict[str, Any]:
        """Returns the loss of obs, next_obs [B, D], action, reward, done [B] and, if there, weights [B]."""
        q_value = agent.forward(data["obs"])["logit"]  # [B, N]
        with torch.no_grad():
            target_q_value = agent.forward(data["next_obs"])["logit"]  # [B, N]
        next_action = target_q_value.argmax(dim=1)  # [B]
        if agent.is_double:
            target_q_value = agent.target_forward(data["next_obs"])["logit"]
        td_data = q_1step_td_data(
            q_value, target_q_value, data["action"], next_action, data["reward"], data["done"], data.get("weights")
        )
        loss = q_1step_td_error(td_data, self._gamma)
        if agent.is_double:
            agent.target_update(agent.state_dict()["model"])
        return {"total_loss": loss, "q_value": q_value.mean()}


class CartPoleDqnLearner(BaseLearner):
    """Trains an FCDQN by a CartPoleDqnGraph."""

    _name = "CartPoleDqnLearner"

    def _setup_agent(self) -> None:
        cfg = self._cfg.learner
        env_info = CartPoleEnv(self._cfg.env).info()
        model = FCDQN(env_info.obs_space.shape, env_info.act_space.shape, dueling=cfg.dqn.dueling, **self._cfg.model)
        if cfg.use_cuda:
            model.cuda()
        target = {"freq": cfg.dqn.target_update_freq}
        self._agent = create_dqn_learner_agent(model, is_double=cfg.dqn.is_double, update_kwargs=target)
        self._agent.mode(train=True)
        if self._agent.is_double:
            self._agent.target_mode(train=True)

    def _setup_computation_graph(self) -> None:
        self._computation_graph = CartPoleDqnGraph(self._cfg.learner)


class CartPoleRunner(SingleMachineRunner):
    """Joins the parts."""

    def _setup_env(self) -> None:
        actor_cfg = CartPoleEnv.create_actor_env_cfg(self._cfg.env)
        evaluator_cfg = CartPoleEnv.create_evaluator_env_cfg(self._cfg.env)
        self._actor_env = BaseEnvManager(CartPoleEnv, actor_cfg, len(actor_cfg))
        self._evaluator_env = BaseEnvManager(CartPoleEnv, evaluator_cfg, len(evaluator_cfg))

    def _setup_learner(self) -> None:
        self._learner = CartPoleDqnLearner(self._cfg)

    def _setup_agent(self) -> None:
        model = self._learner.agent.model
        self._actor_agent = create_dqn_actor_agent(model)
        self._evaluator_agent = create_dqn_evaluator_agent(model)


def main(
    seed: int = 0,
    cfg: Mapping[str, Any] | None = None,
    run_dir: str | Path | None = None,
    sinks: Iterable[MetricSink] = (),
) -> SingleMachineResult:
    """Trains and returns how it ended.

    Args:
        seed: of everything that is random.
        cfg: what to put over ``cartpole_single_machine.yaml``.
        run_dir: a new folder for metrics and checkpoints; None: nothing is written.
        sinks: places for metrics.
    """
    config = deep_merge_dicts(read_config(CONFIG), cfg)
    config["seed"] = seed
    return CartPoleRunner(config, run_dir, sinks).run()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="DQN on CartPole-v1, put together by hand.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-env-step", type=int, help="budget; that of the YAML file without it")
    parser.add_argument("--run-dir", help="a new folder for metrics and checkpoints; nothing is written without it")
    options = parser.parse_args()
    shipped = read_config(CONFIG)
    shipped.max_env_step = options.max_env_step or shipped.max_env_step
    progress = ProgressSink(
        f"cartpole_main seed {options.seed}", Budgets(shipped.max_env_step), shipped.evaluator.stop_val
    )
    outcome = main(options.seed, shipped, options.run_dir, [progress])
    returns = outcome.episode_return
    print(
        f"{outcome.stop_reason}: return {returns.mean():.1f} over {len(returns)} episodes "
        f"after {outcome.env_step} env steps, {outcome.train_iter} iterations, {outcome.wall_s:.1f} s"
    )
