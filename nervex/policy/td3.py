"""TD3: DDPG with two critics, of which the smaller counts, a delayed actor, and noise on the target's action.

Fujimoto et al. 2018, https://arxiv.org/abs/1802.09477, algorithm 1; Sutton & Barto 2018, chapter 7 (n-step).

    a_n      = clip(μ'(s_n) + clip(σ·ε, −c, c), −1, 1), ε ~ N(0, 1)
    target   = Σ_{i<n} γ^i·r_i + γ^n·(1 − terminated)·min_c Q'_c(s_n, a_n)
    L_critic = Σ_c mean_B w·(target − Q_c(s, a))²
    L_actor  = −mean_B Q_1(s, μ(s))                   every actor_update_freq-th update, and then
    θ'       ← (1 − θ)·θ' + θ·θ_main

Rewards are taken as they are. Exploration adds normal or Ornstein-Uhlenbeck noise to μ(s), each lane its own.

Shapes: ``B`` batch, ``b`` ready lanes, ``n`` steps of a window, ``A`` action dimensions. Actions lie in [-1, 1].
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from nervex.config.schema import option
from nervex.data.window import NStepWindow
from nervex.model.qac import QAC
from nervex.policy.base_policy import register_policy
from nervex.policy.common_policy import CommonPolicy
from nervex.policy.config import PolicyConfig
from nervex.policy.continuous_common import (
    ActorCriticLearn,
    DeterministicAlgo,
    NoiseCollect,
    acting_agent,
    actor_critic_optimizers,
    learning_agent,
    priority,
    td_target,
)
from nervex.rl_utils.continuous import (
    clipped_double_q,
    critic_error,
    deterministic_policy_loss,
    smoothed_target_action,
)
from nervex.torch_utils.compiled import tensor_function

TwinQAC = partial(QAC, use_twin_critic=True)


@dataclass
class TD3Algo(DeterministicAlgo):
    actor_update_freq: int = option(
        2, ge=1, unit="learner iterations", doc="between updates of the actor and of the target network"
    )
    target_noise_sigma: float = option(0.2, ge=0, doc="σ of the noise on the target's action")
    target_noise_clip: float = option(0.5, ge=0, doc="c: bound of that noise")


@dataclass
class TD3Learn(ActorCriticLearn):
    algo: TD3Algo = option(default_factory=TD3Algo, doc="the algorithm")


@dataclass
class TD3Config(PolicyConfig):
    learn: TD3Learn = option(default_factory=TD3Learn, doc="how to learn")
    collect: NoiseCollect = option(default_factory=NoiseCollect, doc="how to collect")


class TD3Policy(CommonPolicy):
    """Policy of TD3 for continuous actions."""

    config_class = TD3Config
    action_kinds = ("box",)
    state_names = ("_iteration",)

    _iteration = 0

    def _init_learn(self) -> None:
        self._algo = self._cfg.learn.algo
        self._agent = learning_agent(self._model, self._algo.target_theta)
        self._optimizer_actor, self._optimizer_critic = actor_critic_optimizers(self._model, self._cfg.learn)

    def _forward_learn(self, data: dict[str, Any]) -> dict[str, Any]:
        """Makes one update of the critics and, every ``actor_update_freq``-th time, of the actor.

        Args:
            data: obs, next_obs [B, ...], action float [B, A], reward [B, n], done bool [B], value_gamma [B],
                weight [B].

        Returns:
            ``total_loss``, ``critic_loss``, ``q_value``, with an update of the actor ``actor_loss`` (scalars),
            ``priority`` float [B], ``cur_lr`` of the critics.
        """
        output = self._update_critic(data)
        self._iteration += 1
        if self._iteration % self._algo.actor_update_freq == 0:
            output |= self._update_actor(data)
            output["total_loss"] = output["critic_loss"] + output["actor_loss"]
            self._agent.target_update(self._agent.state_dict()["model"])
        return {"cur_lr": self._optimizer_critic.param_groups[0]["lr"], **output}

    @tensor_function
    def _update_critic(self, data: dict[str, Any]) -> dict[str, Any]:
        """Steps down the gradient of the critic's loss."""
        algo, next_obs = self._algo, data["next_obs"]
        next_action = self._agent.target_forward({"obs": next_obs})["action"]  # [B, A]
        next_action = smoothed_target_action(next_action, algo.target_noise_sigma, algo.target_noise_clip)  # [B, A]
        next_q = self._agent.target_forward({"obs": next_obs, "action": next_action}, mode="compute_q")["q_value"]
        target = td_target(data, clipped_double_q(next_q), algo)  # [B]
        taken = {"obs": data["obs"], "action": data["action"]}
        q_value = self._agent.forward(taken, mode="compute_q")["q_value"]  # [2, B]
        loss, td_error = critic_error(q_value, target, data["weight"])
        self._optimizer_critic.descend(loss)
        return {
            "total_loss": loss.detach(),
            "critic_loss": loss.detach(),
            "q_value": q_value.detach().mean(),
            "priority": priority(td_error),  # [B]
        }

    @tensor_function
    def _update_actor(self, data: dict[str, Any]) -> dict[str, Any]:
        """Steps up the gradient of the critic's value of the actor's own actions."""
        obs = data["obs"]
        action = self._agent.forward({"obs": obs})["action"]  # [B, A]
        first = {"obs": obs, "action": action, "critic_num": 1}
        own_q = self._agent.forward(first, mode="compute_q")["q_value"]  # [1, B]
        loss = deterministic_policy_loss(own_q[0] if own_q.dim() == 2 else own_q)
        self._optimizer_actor.descend(loss)
        return {"actor_loss": loss.detach()}

    def _init_collect(self) -> None:
        algo = self._cfg.learn.algo
        self._window = NStepWindow(algo.nstep, algo.discount_factor)
        self._collect_agent = acting_agent(self._model, self._cfg.collect)

    def _forward_collect(self, data_id: Any, data: dict[str, Any]) -> dict[str, Any]:
        """Returns ``action`` float [b, A], with noise, for obs [b, ...]."""
        return self._collect_agent.forward(data, data_id=data_id)

    def _init_eval(self) -> None:
        self._eval_agent = acting_agent(self._model, None if self._cfg.eval.deterministic else self._cfg.collect)

    def _forward_eval(self, data_id: Any, data: dict[str, Any]) -> dict[str, Any]:
        """Returns ``action`` float [b, A] for obs [b, ...]."""
        return self._eval_agent.forward(data, data_id=data_id)

    def _state_dict_handle(self) -> dict[str, Any]:
        return {
            "model": self._model,
            "optimizer_actor": self._optimizer_actor,
            "optimizer_critic": self._optimizer_critic,
        }

    def _monitor_vars_learn(self) -> list[str]:
        return ["cur_lr", "total_loss", "critic_loss", "actor_loss", "q_value"]

    @classmethod
    def model_class(cls, cfg: Mapping[str, Any]) -> Any:
        """Returns the actor-critic network ``QAC``, with two critics."""
        return TwinQAC

    def _create_model_from_cfg(self, cfg: Any, model_type: type | None = None) -> torch.nn.Module:
        return (model_type or self.model_class(cfg))(**cfg.model)


register_policy("td3", TD3Policy)
