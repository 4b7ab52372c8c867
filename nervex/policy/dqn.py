"""DQN: Q-learning with a replay, a target network, and the double, dueling, n-step and prioritized extensions.

Mnih et al. 2015, https://doi.org/10.1038/nature14236 (DQN); van Hasselt et al. 2016, https://arxiv.org/abs/1509.06461
(double); Wang et al. 2016, https://arxiv.org/abs/1511.06581 (dueling); Schaul et al. 2016,
https://arxiv.org/abs/1511.05952 (prioritized); Sutton & Barto 2018, chapter 7 (n-step).

    target = Σ_{i<n} γ^i·r_i + γ^n·(1 − terminated)·Q'(s_n, argmax_a Q(s_n, a))
    L      = mean_B w·(target − Q(s, a))²

Shapes: ``B`` batch, ``b`` ready lanes, ``n`` steps of a window, ``N`` actions. Evaluation is greedy by default;
``eval.deterministic: false`` explores with rate ``eval.eps``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nervex.agent.agent import Agent
from nervex.config.schema import option
from nervex.data.window import NStepWindow
from nervex.model.discrete_net import ConvDiscreteNet, FCDiscreteNet
from nervex.policy.base_policy import register_policy
from nervex.policy.common_policy import CommonPolicy
from nervex.policy.config import (
    CollectConfig,
    EpsCommandConfig,
    EpsEvalConfig,
    LearnConfig,
    NStepAlgo,
    PolicyConfig,
)  # fmt: skip
from nervex.rl_utils.exploration import epsilon_greedy
from nervex.rl_utils.td import q_nstep_td_data, q_nstep_td_error_per_sample
from nervex.torch_utils.compiled import tensor_function
from nervex.torch_utils.optimizer import Adam


@dataclass
class DQNAlgo:
    discount_factor: float = option(0.99, ge=0, le=1, doc="γ")
    nstep: int = option(3, ge=1, unit="env steps", doc="rewards summed before bootstrapping")
    target_update_freq: int = option(100, ge=1, unit="learner iterations", doc="between copies to the target network")
    double: bool = option(True, doc="choose the bootstrapping action with the online network")


@dataclass
class DQNLearn(LearnConfig):
    train_step: int = option(4, ge=1, unit="learner iterations", doc="updates after each collection")
    algo: DQNAlgo = option(default_factory=DQNAlgo, doc="the algorithm")
    grad_clip_norm: float = option(float("inf"), gt=0, doc="largest norm of the gradient; longer ones are scaled down")


@dataclass
class DQNCollect(CollectConfig):
    algo: NStepAlgo = option(default_factory=NStepAlgo, doc="the algorithm")


@dataclass
class DQNConfig(PolicyConfig):
    learn: DQNLearn = option(default_factory=DQNLearn, doc="how to learn")
    collect: DQNCollect = option(default_factory=DQNCollect, doc="how to collect")
    eval: EpsEvalConfig = option(default_factory=EpsEvalConfig, doc="how to act in evaluation")
    command: EpsCommandConfig = option(default_factory=EpsCommandConfig, doc="what learn tells collect")


class DQNPolicy(CommonPolicy):
    """Policy of DQN for discrete actions."""

    config_class = DQNConfig
    action_kinds = ("discrete",)

    def _init_learn(self) -> None:
        self._refuse_memory()
        cfg = self._cfg.learn
        clip = None if cfg.grad_clip_norm == float("inf") else "clip_norm"
        self._optimizer = Adam(
            self._model.parameters(), lr=cfg.learning_rate, weight_decay=cfg.weight_decay,
            grad_clip_type=clip, clip_value=cfg.grad_clip_norm,
        )  # fmt: skip
        self._nstep = cfg.algo.nstep
        self._gamma = cfg.algo.discount_factor
        self._double = cfg.algo.double
        self._agent = Agent(self._model)
        self._agent.add_model("target", update_type="assign", update_kwargs={"freq": cfg.algo.target_update_freq})
        self._agent.add_plugin("main", "argmax_sample")
        self._agent.add_plugin("target", "grad", enable_grad=False)
        self._agent.mode(train=True)
        self._agent.target_mode(train=True)

    def _forward_learn(self, data: dict[str, Any]) -> dict[str, Any]:
        """Makes one update.

        Args:
            data: obs, next_obs [B, ...], action int64 [B], reward [B, n], done bool [B], value_gamma [B], weight [B].

        Returns:
            ``total_loss`` and ``q_value`` (scalars), ``priority`` float [B], ``cur_lr``.
        """
        output = self._update(data)
        self._agent.target_update(self._agent.state_dict()["model"])
        return {"cur_lr": self._optimizer.param_groups[0]["lr"], **output}

    @tensor_function
    def _update(self, data: dict[str, Any]) -> dict[str, Any]:
        """Steps down the gradient of the loss and returns the tensors of the output."""
        q_value = self._agent.forward({"obs": data["obs"]})["logit"]  # [B, N]
        next_q_value = self._agent.target_forward({"obs": data["next_obs"]})["logit"]  # [B, N]
        next_action: Tensor | None = None  # greedy by the target network
        if self._double:
            with torch.no_grad():
                next_action = self._agent.forward({"obs": data["next_obs"]})["action"]  # [B]
        reward = data["reward"].T  # [n, B]
        td_data = q_nstep_td_data(
            q_value, next_q_value, data["action"], next_action, reward, data["done"], data["weight"]
        )
        loss, td_error = q_nstep_td_error_per_sample(td_data, self._gamma, self._nstep, value_gamma=data["value_gamma"])

        self._optimizer.descend(loss)
        return {
            "total_loss": loss.detach(),
            "q_value": q_value.detach().mean(),
            "priority": td_error.abs(),  # [B]
        }

    def _init_collect(self) -> None:
        algo = self._cfg.learn.algo
        self._window = NStepWindow(algo.nstep, algo.discount_factor)
        self._eps = self._cfg.command.eps.start
        self._collect_agent = Agent(self._model)
        self._collect_agent.add_plugin("main", "eps_greedy_sample")
        self._collect_agent.add_plugin("main", "grad", enable_grad=False)
        self._collect_agent.mode(train=False)
        self._collect_setting_set = {"eps"}

    def _forward_collect(self, data_id: Any, data: dict[str, Any]) -> dict[str, Any]:
        """Returns ``action`` int64 [b] for obs [b, ...], exploring with rate eps."""
        return self._collect_agent.forward(data, eps=self._eps)

    def _process_transition(self, obs: Any, agent_output: dict[str, Any], timestep: Any) -> dict[str, Any]:
        return {"obs": obs, "action": agent_output["action"], "reward": timestep.reward}

    def _get_train_sample(self, traj_cache: Any) -> Any:
        return traj_cache  # rows; the replay gathers n-step windows from them

    def _init_eval(self) -> None:
        self._eval_agent = Agent(self._model)
        self._eval_agent.add_plugin("main", "argmax_sample" if self._cfg.eval.deterministic else "eps_greedy_sample")
        self._eval_agent.add_plugin("main", "grad", enable_grad=False)
        self._eval_agent.mode(train=False)

    def _forward_eval(self, data_id: Any, data: dict[str, Any]) -> dict[str, Any]:
        """Returns ``action`` int64 [b] for obs [b, ...]."""
        if self._cfg.eval.deterministic:
            return self._eval_agent.forward(data)
        return self._eval_agent.forward(data, eps=self._cfg.eval.eps)

    def _init_command(self) -> None:
        eps = self._cfg.command.eps
        self._epsilon_greedy = epsilon_greedy(eps.start, eps.end, eps.decay, eps.type)

    def _get_setting_collect(self, command_info: dict[str, Any]) -> dict[str, Any]:
        return {"eps": self._epsilon_greedy(command_info["learner_step"])}

    @classmethod
    def model_class(cls, cfg: Mapping[str, Any]) -> Any:
        """Returns the convolutional network for images [C, H, W], the fully connected one for vectors."""
        obs_dim = cfg["model"].get("obs_dim", 0)
        return ConvDiscreteNet if isinstance(obs_dim, list | tuple) and len(obs_dim) == 3 else FCDiscreteNet


register_policy("dqn", DQNPolicy)
