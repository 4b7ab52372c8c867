"""IQL: values of the best recorded actions by expectile regression, and a policy cloned by its advantages.

Kostrikov et al. 2021, https://arxiv.org/abs/2110.06169. Critics and values are never asked about actions that the data
do not hold.

    L_V = mean_B |τ − 1(u < 0)|·u²,  u = min_c Q'_c(s, a) − V(s)
    L_π = −mean_B min(exp(β·u), limit)·log π(a | s)                  with V before its update
    L_Q = Σ_c mean_B (r + γ·(1 − terminated)·V(s') − Q_c(s, a))²     with V after its update
    θ'  ← (1 − θ)·θ' + θ·θ_main

π is a normal distribution with its mean in [-1, 1]^A and a σ of its own.

Shapes: ``B`` batch, ``b`` ready lanes, ``A`` action dimensions, ``C`` critics.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nervex.config.schema import option
from nervex.model.offline_net import IQLNet
from nervex.policy.base_policy import register_policy
from nervex.policy.common_policy import CommonPolicy
from nervex.policy.config import PolicyConfig
from nervex.policy.continuous_common import ActorCriticLearn, acting_agent, actor_critic_optimizers, learning_agent
from nervex.policy.offline_common import bounded_action, one_step_target
from nervex.rl_utils.continuous import clipped_double_q, critic_error
from nervex.rl_utils.distribution import log_prob
from nervex.rl_utils.offline import advantage_weighted_loss, expectile_loss
from nervex.torch_utils.compiled import tensor_function
from nervex.torch_utils.optimizer import Adam


@dataclass
class IQLAlgo:
    discount_factor: float = option(0.99, ge=0, le=1, doc="γ")
    target_theta: float = option(0.005, gt=0, le=1, doc="θ: part of the way that the target network goes per update")
    expectile: float = option(0.7, gt=0, lt=1, doc="τ: 0.5 values the mean of the recorded actions, near 1 the best")
    beta: float = option(3.0, ge=0, unit="1/return", doc="inverse temperature of the advantages; 0 clones all alike")
    max_weight: float = option(100.0, ge=1, doc="limit of exp(β·A)")


@dataclass
class IQLLearn(ActorCriticLearn):
    learning_rate: float = option(3e-4, gt=0, doc="step size of the optimizers")
    algo: IQLAlgo = option(default_factory=IQLAlgo, doc="the algorithm")


@dataclass
class IQLConfig(PolicyConfig):
    learn: IQLLearn = option(default_factory=IQLLearn, doc="how to learn")


class IQLPolicy(CommonPolicy):
    """Policy of IQL for continuous actions in [-1, 1]^A."""

    config_class = IQLConfig
    action_kinds = ("box",)
    data_path = "dataset"
    gives_priority = False

    def _init_learn(self) -> None:
        cfg = self._cfg.learn
        self._algo = cfg.algo
        self._agent = learning_agent(self._model, cfg.algo.target_theta)
        self._optimizer_actor, self._optimizer_critic = actor_critic_optimizers(self._model, cfg)
        value: Any = self._model.value
        self._optimizer_value = Adam(
            value.parameters(), lr=cfg.learning_rate_critic or cfg.learning_rate, weight_decay=cfg.weight_decay
        )

    def _forward_learn(self, data: dict[str, Any]) -> dict[str, Any]:
        """Makes one update of value, policy and critics.

        Args:
            data: obs, next_obs [B, ...], action float [B, A], reward float [B], terminated bool [B].

        Returns:
            ``total_loss``, ``value_loss``, ``actor_loss``, ``critic_loss``, ``adv``, ``value``, ``q_value`` (scalars),
            ``cur_lr`` of the critics.
        """
        output = self._update(data)
        self._agent.target_update(self._agent.state_dict()["model"])
        return {"cur_lr": self._optimizer_critic.param_groups[0]["lr"], **output}

    @tensor_function
    def _update(self, data: dict[str, Any]) -> dict[str, Any]:
        """Steps down the gradients of the losses and returns the tensors of the output."""
        algo, pair = self._algo, {"obs": data["obs"], "action": data["action"]}
        old_q_value = clipped_double_q(self._agent.target_forward(pair, mode="compute_q")["q_value"])  # [B]
        value = self._value(data["obs"])  # [B]
        adv = (old_q_value - value).detach()  # [B]
        value_loss = expectile_loss(value, old_q_value, algo.expectile, data["weight"])
        self._optimizer_value.descend(value_loss)

        logp = log_prob(self._agent.forward({"obs": data["obs"]})["logit"], data["action"])  # [B]
        actor_loss = advantage_weighted_loss(logp, adv, algo.beta, algo.max_weight)
        self._optimizer_actor.descend(actor_loss)

        with torch.no_grad():
            next_value = self._value(data["next_obs"])  # [B]
        q_value = self._agent.forward(pair, mode="compute_q")["q_value"]  # [C, B]
        target = one_step_target(data, next_value, algo.discount_factor)  # [B]
        critic_loss, _ = critic_error(q_value, target, data["weight"])
        self._optimizer_critic.descend(critic_loss)
        losses = {"value_loss": value_loss, "actor_loss": actor_loss, "critic_loss": critic_loss}
        return {
            "total_loss": (value_loss + actor_loss + critic_loss).detach(),
            **{name: loss.detach() for name, loss in losses.items()},
            "adv": adv.mean(),
            "value": value.detach().mean(),
            "q_value": q_value.detach().mean(),
        }

    def _value(self, obs: Any) -> Tensor:
        """Returns V(s), float [B]."""
        value: Tensor = self._agent.forward({"obs": obs}, mode="compute_value")["value"]
        return value

    def _init_collect(self) -> None:
        self._collect_agent = acting_agent(self._model)

    def _forward_collect(self, data_id: Any, data: dict[str, Any]) -> dict[str, Any]:
        """Returns ``action`` float [b, A], drawn from the policy, for obs [b, ...]."""
        return {"action": bounded_action(self._collect_agent.forward(data)["logit"], deterministic=False)}

    def _init_eval(self) -> None:
        self._eval_agent = acting_agent(self._model)

    def _forward_eval(self, data_id: Any, data: dict[str, Any]) -> dict[str, Any]:
        """Returns ``action`` float [b, A] for obs [b, ...]: the mean."""
        return {"action": bounded_action(self._eval_agent.forward(data)["logit"], self._cfg.eval.deterministic)}

    def _state_dict_handle(self) -> dict[str, Any]:
        optimizers = {k[1:]: v for k, v in vars(self).items() if isinstance(v, torch.optim.Optimizer)}
        return {"model": self._model, **optimizers}

    def _monitor_vars_learn(self) -> list[str]:
        return ["cur_lr", "total_loss", "value_loss", "actor_loss", "critic_loss", "adv", "value", "q_value"]

    @classmethod
    def model_class(cls, cfg: Mapping[str, Any]) -> Any:
        """Returns the network of policy, critics and value."""
        return IQLNet


register_policy("iql", IQLPolicy)
