"""CQL: SAC on recorded data, whose critics are pushed down on actions that the data do not hold.

Kumar et al. 2020, https://arxiv.org/abs/2006.04779 (CQL(H)); Haarnoja et al. 2018, https://arxiv.org/abs/1812.05905.

    y        = r + γ·(1 − terminated)·min_c Q'_c(s', a'), a' ~ π(s')
    gap_c    = mean_B [log ∫ exp Q_c(s, a) da − Q_c(s, a_B)]        the integral from K uniform and K policy's actions
    L_critic = Σ_c mean_B (y − Q_c(s, a_B))² + w·Σ_c gap_c
    L_actor  = mean_B [α·log π(a | s) − min_c Q_c(s, a)], a ~ π(s)
    L_alpha  = −mean_B α·(log π(a | s) + H̄)
    θ'       ← (1 − θ)·θ' + θ·θ_main

w is fixed, or (``lagrange_gap: τ``) learned so that the gap is at most τ. As in the authors' code, no entropy is in y.

Shapes: ``B`` batch, ``b`` ready lanes, ``K`` drawn actions, ``A`` action dimensions, ``C`` critics.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nervex.config.schema import option
from nervex.model.qac import SACNet
from nervex.policy.base_policy import register_policy
from nervex.policy.common_policy import CommonPolicy
from nervex.policy.config import PolicyConfig
from nervex.policy.continuous_common import ActorCriticLearn, acting_agent, actor_critic_optimizers, learning_agent
from nervex.policy.offline_common import one_step_target
from nervex.rl_utils.continuous import clipped_double_q, critic_error, sac_alpha_loss, sac_policy_loss
from nervex.rl_utils.distribution import sample, squashed_mode, squashed_sample
from nervex.rl_utils.offline import conservative_gap, cql_alpha_loss, sampled_logsumexp
from nervex.torch_utils.compiled import tensor_function
from nervex.torch_utils.optimizer import Adam
from nervex.utils.tree import tree_map


@dataclass
class CQLAlgo:
    discount_factor: float = option(0.99, ge=0, le=1, doc="γ")
    target_theta: float = option(0.005, gt=0, le=1, doc="θ: part of the way that the target network goes per update")
    cql_weight: float = option(5.0, gt=0, doc="w: weight of the gap; at the start, when it is learned")
    lagrange_gap: float | None = option(None, doc="τ: gap that the weight is learned to hold; null: w is fixed")
    sample_num: int = option(10, ge=1, unit="actions", doc="K: drawn uniformly, and from the policy, for each gap")
    target_entropy: float | None = option(None, unit="nats", doc="H̄; null: −A")


@dataclass
class CQLLearn(ActorCriticLearn):
    learning_rate: float = option(3e-4, gt=0, doc="step size of the optimizers")
    algo: CQLAlgo = option(default_factory=CQLAlgo, doc="the algorithm")


@dataclass
class CQLConfig(PolicyConfig):
    learn: CQLLearn = option(default_factory=CQLLearn, doc="how to learn")


class CQLPolicy(CommonPolicy):
    """Policy of CQL for continuous actions in [-1, 1]^A."""

    config_class = CQLConfig
    action_kinds = ("box",)
    data_path = "dataset"
    gives_priority = False

    def _init_learn(self) -> None:
        cfg = self._cfg.learn
        self._algo = algo = cfg.algo
        self._agent = learning_agent(self._model, algo.target_theta)
        self._optimizer_actor, self._optimizer_critic = actor_critic_optimizers(self._model, cfg)
        self._log_alpha = torch.zeros((), device=self._device, requires_grad=True)
        self._optimizer_alpha = Adam([self._log_alpha], lr=cfg.learning_rate)
        learned = algo.lagrange_gap is not None
        self._log_weight = torch.tensor(math.log(algo.cql_weight), device=self._device, requires_grad=learned)
        if learned:
            self._optimizer_weight = Adam([self._log_weight], lr=cfg.learning_rate)

    def _forward_learn(self, data: dict[str, Any]) -> dict[str, Any]:
        """Makes one update of critics, actor, temperature and, if it is learned, the weight of the gap.

        Args:
            data: obs, next_obs [B, ...], action float [B, A], reward float [B], terminated bool [B].

        Returns:
            ``total_loss``, ``critic_loss``, ``actor_loss``, ``gap``, ``cql_weight``, ``alpha``, ``entropy``,
            ``q_value`` (scalars), ``cur_lr`` of the critics.
        """
        output = self._update(data)
        self._agent.target_update(self._agent.state_dict()["model"])
        return {"cur_lr": self._optimizer_critic.param_groups[0]["lr"], **output}

    @tensor_function
    def _update(self, data: dict[str, Any]) -> dict[str, Any]:
        """Steps down the gradients of the losses and returns the tensors of the output."""
        obs, algo = data["obs"], self._algo
        weight = self._log_weight.detach().exp()  # []
        q_value = self._q_value(obs, data["action"])  # [C, B]
        target = one_step_target(data, self._next_value(data["next_obs"]), algo.discount_factor)  # [B]
        critic_loss, _ = critic_error(q_value, target, data["weight"])
        gap = conservative_gap(self._logsumexp(obs, data["action"]), q_value, data["weight"])  # [C]
        self._optimizer_critic.descend(critic_loss + weight * gap.sum())
        if algo.lagrange_gap is not None:
            self._optimizer_weight.descend(cql_alpha_loss(self._log_weight, gap, algo.lagrange_gap))

        alpha = self._log_alpha.detach().exp()  # []
        action, logp = squashed_sample(self._agent.forward({"obs": obs})["logit"])  # [B, A], [B]
        actor_loss = sac_policy_loss(logp, self._q_value(obs, action), alpha)
        self._optimizer_actor.descend(actor_loss)
        target_entropy = -float(action.shape[-1]) if algo.target_entropy is None else algo.target_entropy
        self._optimizer_alpha.descend(sac_alpha_loss(self._log_alpha, logp, target_entropy))
        return {
            "total_loss": critic_loss.detach() + weight * gap.detach().sum() + actor_loss.detach(),
            "critic_loss": critic_loss.detach(),
            "actor_loss": actor_loss.detach(),
            "gap": gap.detach().mean(),
            "cql_weight": weight,
            "alpha": alpha,
            "entropy": -logp.detach().mean(),
            "q_value": q_value.detach().mean(),
        }

    def _q_value(self, obs: Any, action: Tensor) -> Tensor:
        """Returns the critics' values, float [C, B]."""
        q_value: Tensor = self._agent.forward({"obs": obs, "action": action}, mode="compute_q")["q_value"]
        return q_value

    @torch.no_grad()
    def _next_value(self, next_obs: Any) -> Tensor:
        """Returns the target critics' value of an action of the policy, float [B]."""
        action, _ = squashed_sample(self._agent.forward({"obs": next_obs})["logit"])  # [B, A]
        q_value = self._agent.target_forward({"obs": next_obs, "action": action}, mode="compute_q")["q_value"]
        return clipped_double_q(q_value)

    def _logsumexp(self, obs: Any, action: Tensor) -> Tensor:
        """Returns log ∫ exp Q(s, a) da, float [C, B], from K uniform actions and K of the policy."""
        num = self._algo.sample_num
        uniform = torch.rand(num, *action.shape, device=action.device) * 2 - 1  # [K, B, A]
        with torch.no_grad():
            logit = self._agent.forward({"obs": obs})["logit"]
            own, logp = squashed_sample({k: v.expand(num, *v.shape) for k, v in logit.items()})  # [K, B, A], [K, B]
        density = torch.full_like(logp, -action.shape[-1] * math.log(2))  # log of the uniform density on [-1, 1]^A
        drawn = torch.cat([uniform, own])  # [2K, B, A]
        many = tree_map(lambda x: x.expand(2 * num, *x.shape).flatten(0, 1), obs)  # [2K·B, ...]
        q_value = self._q_value(many, drawn.flatten(0, 1)).unflatten(1, drawn.shape[:2])  # [C, 2K, B]
        return sampled_logsumexp(q_value, torch.cat([density, logp]))

    def _init_collect(self) -> None:
        self._collect_agent = acting_agent(self._model)

    def _forward_collect(self, data_id: Any, data: dict[str, Any]) -> dict[str, Any]:
        """Returns ``action`` float [b, A], drawn from the policy, for obs [b, ...]."""
        return {"action": sample(self._collect_agent.forward(data)["logit"]).tanh()}

    def _init_eval(self) -> None:
        self._eval_agent = acting_agent(self._model)

    def _forward_eval(self, data_id: Any, data: dict[str, Any]) -> dict[str, Any]:
        """Returns ``action`` float [b, A] for obs [b, ...]: tanh(μ)."""
        logit = self._eval_agent.forward(data)["logit"]
        return {"action": squashed_mode(logit) if self._cfg.eval.deterministic else sample(logit).tanh()}

    def _state_dict_handle(self) -> dict[str, Any]:
        optimizers = {k[1:]: v for k, v in vars(self).items() if isinstance(v, torch.optim.Optimizer)}
        return {"model": self._model, **optimizers}

    def _monitor_vars_learn(self) -> list[str]:
        return ["cur_lr", "total_loss", "critic_loss", "actor_loss", "gap", "cql_weight", "alpha", "entropy", "q_value"]

    @classmethod
    def model_class(cls, cfg: Mapping[str, Any]) -> Any:
        """Returns the network of SAC."""
        return SACNet


register_policy("cql", CQLPolicy)
