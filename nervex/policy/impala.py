"""IMPALA: actor-critic from unrolls that an older policy collected, corrected by V-trace.

Espeholt et al. 2018, https://arxiv.org/abs/1802.01561; Vinyals et al. 2019,
https://doi.org/10.1038/s41586-019-1724-z (the upgoing policy update).

    ρ_t = π(a_t|s_t) / μ(a_t|s_t), μ the policy that collected
    L   = −mean A_t·log π(a_t|s_t) + c_v·½·mean (V(s_t) − v_t)² − c_e·mean H(π(·|s_t))  (+ the upgoing loss)
    v, A: V-trace targets and advantages of unrolls, with ρ_t cut at 1 (``rl_utils.vtrace``)

Because ρ corrects what the policy has changed since, a rollout may be learned from in several passes, and by a learner
that runs ahead of its actors. Losses are means over rows where the paper has sums, so the gradient is that many times
smaller: the learning rate and the optimizer's epsilon differ from the paper's (RMSprop, 6e-4 and 0.1).

Shapes: ``[L, n]`` rows and number of unrolls, ``b`` ready lanes, ``A`` dimensions or heads of an action.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nervex.agent.agent import Agent
from nervex.config.schema import IntOrInf, option
from nervex.model.rnn import is_recurrent
from nervex.policy.actor_critic import (
    GradientLearn,
    acting_agent,
    actor_critic_class,
    build_optimizer,
    check_lengths,
    forward_rows,
)
from nervex.policy.base_policy import register_policy
from nervex.policy.common_policy import CommonPolicy
from nervex.policy.config import RolloutCollectConfig, RolloutPolicyConfig
from nervex.rl_utils.a2c import a2c_data, a2c_error
from nervex.rl_utils.distribution import Logit, log_prob
from nervex.rl_utils.normalize import weighted_mean
from nervex.rl_utils.upgo import upgo_loss
from nervex.rl_utils.vtrace import vtrace_returns
from nervex.torch_utils.compiled import tensor_function
from nervex.utils.errors import ConfigError
from nervex.utils.tree import tree_map


@dataclass
class IMPALAAlgo:
    discount_factor: float = option(0.99, ge=0, le=1, doc="γ")
    vtrace_lambda: float = option(1.0, ge=0, le=1, doc="λ, how far an error reaches back")
    rho_clip_ratio: float = option(1.0, gt=0, doc="ρ̄, bound of ρ in the errors")
    c_clip_ratio: float = option(1.0, gt=0, doc="c̄, bound of ρ in how far an error reaches back")
    rho_pg_clip_ratio: float = option(1.0, gt=0, doc="bound of ρ in the policy gradient")
    value_weight: float = option(0.5, ge=0, doc="c_v, weight of the value loss")
    entropy_weight: float = option(0.01, ge=0, doc="c_e, weight of the entropy")
    upgo: bool = option(False, doc="add the upgoing policy update: returns that follow what went better than expected")


@dataclass
class IMPALALearn(GradientLearn):
    batch_size: int = option(256, ge=1, unit="rows", doc="rows of one update, a multiple of collect.unroll_len")
    algo: IMPALAAlgo = option(default_factory=IMPALAAlgo, doc="the algorithm")
    grad_clip_norm: float = option(40.0, gt=0, doc="largest norm of the gradient; longer ones are scaled down")


@dataclass
class IMPALACollect(RolloutCollectConfig):
    traj_len: IntOrInf = option(32, ge=1, doc="rows of a rollout per lane; inf: whole episodes", unit="env steps")
    unroll_len: int = option(32, ge=1, unit="rows", doc="rows of one training sample")


@dataclass
class IMPALAConfig(RolloutPolicyConfig):
    learn: IMPALALearn = option(default_factory=IMPALALearn, doc="how to learn")
    collect: IMPALACollect = option(default_factory=IMPALACollect, doc="how to collect")


class IMPALAPolicy(CommonPolicy):
    """Policy of IMPALA for discrete, multi-discrete and continuous actions."""

    config_class = IMPALAConfig
    action_kinds = ("discrete", "multi_discrete", "box")
    gives_priority = False
    data_path = "rollout"

    def _init_learn(self) -> None:
        self._optimizer = build_optimizer(self._model, self._cfg.learn)
        self._algo = self._cfg.learn.algo
        self._recurrent = is_recurrent(self._model)
        self._agent = Agent(self._model)
        self._agent.mode(train=True)

    def _forward_learn(self, data: dict[str, Any]) -> dict[str, Any]:
        """Makes one update.

        Args:
            data: obs, action, logp, reward, terminated, truncated, valid, weight, begin [L, n, ...], last_obs and
                prev_state [n, ...].

        Returns:
            scalars: ``total_loss``, ``policy_loss``, ``value_loss``, ``entropy_loss``, ``rho`` (mean importance
            weight), ``cur_lr``, and with ``upgo`` the ``upgo_loss``.
        """
        output = self._update(data)
        return {"cur_lr": self._optimizer.param_groups[0]["lr"], **output}

    @tensor_function
    def _update(self, data: dict[str, Any]) -> dict[str, Any]:
        """Steps down the gradient of the loss and returns the tensors of the output."""
        algo, weight = self._algo, data["weight"]
        logit, value = self._forward_unrolls(data)  # value [L+1, n]
        with torch.no_grad():
            rho = (log_prob(logit, data["action"]) - data["logp"]).exp()  # [L, n]
        ends = {k: data[k] for k in ("terminated", "truncated", "valid")}
        target = vtrace_returns(
            rho, value, data["reward"], **ends, gamma=algo.discount_factor, lambda_=algo.vtrace_lambda,
            rho_clip_ratio=algo.rho_clip_ratio, c_clip_ratio=algo.c_clip_ratio,
            rho_pg_clip_ratio=algo.rho_pg_clip_ratio,
        )  # fmt: skip
        loss = a2c_error(a2c_data(logit, data["action"], value[:-1], target.adv, target.return_, weight))
        total = loss.policy_loss + algo.value_weight * loss.value_loss - algo.entropy_weight * loss.entropy_loss
        further = {}
        if algo.upgo:
            upgo = upgo_loss(
                logit, rho, data["action"], data["reward"], value.detach(), algo.discount_factor, **ends, weight=weight
            )
            total = total + upgo
            further["upgo_loss"] = upgo.detach()

        self._optimizer.descend(total)
        return {
            "total_loss": total.detach(),
            "policy_loss": loss.policy_loss.detach(),
            "value_loss": loss.value_loss.detach(),
            "entropy_loss": loss.entropy_loss.detach(),
            "rho": weighted_mean(rho, weight),
            **further,
        }

    def _forward_unrolls(self, data: dict[str, Any]) -> tuple[Logit, Tensor]:
        """Returns the logits of the rows [L, n, ...], and the values [L+1, n] of them and of what follows."""
        obs: Any = tree_map(lambda x, last: torch.cat([x, last[None]]), data["obs"], data["last_obs"])
        begin = torch.cat([data["begin"], torch.zeros_like(data["begin"][:1])])  # [L+1, n]
        logit, value = forward_rows(self._agent, {**data, "obs": obs, "begin": begin}, self._recurrent)
        rows: Any = tree_map(lambda x: x[:-1], logit)
        return rows, value

    def _init_collect(self) -> None:
        recurrent = is_recurrent(self._model)
        check_lengths(self._cfg, recurrent)
        if self._cfg.collect.unroll_len == 1:
            raise ConfigError(
                "policy.collect.unroll_len is 1, but V-trace needs rows that follow each other; expected at least 2: "
                "give an unroll_len such as 32 that divides traj_len and batch_size"
            )
        self._collect_agent = acting_agent(self._model, deterministic=False, recurrent=recurrent)

    def _forward_collect(self, data_id: Any, data: dict[str, Any]) -> dict[str, Any]:
        """Returns ``action`` [b] or [b, A], its ``logp`` float [b], and ``prev_state`` [b, ...] of a recurrent network,
        for obs [b, ...]."""
        return self._collect_agent.forward(data, data_id=data_id)

    def _process_transition(self, obs: Any, agent_output: dict[str, Any], timestep: Any) -> dict[str, Any]:
        kept: dict[str, Any] = {k: agent_output[k] for k in ("action", "logp", "prev_state") if k in agent_output}
        return {"obs": obs, "reward": timestep.reward, **kept}

    def _get_train_sample(self, traj_cache: Any) -> Any:
        return traj_cache  # rows; the rollout buffer cuts unrolls from them

    def _init_eval(self) -> None:
        recurrent = is_recurrent(self._model)
        self._eval_agent = acting_agent(self._model, self._cfg.eval.deterministic, recurrent)

    def _forward_eval(self, data_id: Any, data: dict[str, Any]) -> dict[str, Any]:
        """Returns ``action`` [b] or [b, A] for obs [b, ...]: the likeliest one, or one drawn."""
        return self._eval_agent.forward(data, data_id=data_id)

    def _monitor_vars_learn(self) -> list[str]:
        return [*super()._monitor_vars_learn(), "policy_loss", "value_loss", "entropy_loss", "rho"]

    @classmethod
    def model_class(cls, cfg: Mapping[str, Any]) -> Any:
        """Returns the actor-critic network for the shape of the observations."""
        return actor_critic_class(cfg)

    def _create_model_from_cfg(self, cfg: Any, model_type: type | None = None) -> torch.nn.Module:
        return (model_type or self.model_class(cfg))(**cfg.model)


register_policy("impala", IMPALAPolicy)
