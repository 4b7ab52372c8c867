"""A2C: advantage actor-critic, one gradient step from each short rollout of many envs.

Mnih et al. 2016, https://arxiv.org/abs/1602.01783, in its synchronous form (Wu et al. 2017,
https://openai.com/index/openai-baselines-acktr-a2c); Schulman et al. 2016, https://arxiv.org/abs/1506.02438
(advantages).

    L = −mean A·log π(a|s) + c_v·½·mean (V(s) − G)² − c_e·mean H(π(·|s))
    A: generalized advantages; with λ = 1 the rewards to the rollout's end, the value after it, less V(s)
    G = A + V(s)

Defaults are those of Stable-Baselines3 2.3 (``value_weight`` 1 there is ``vf_coef`` 0.5, for its loss has no ½), but
for rollouts of 8 rows and an entropy weight of 0.01 as in Mnih et al. A rollout is one minibatch where ``batch_size``
holds it: ``traj_len`` · ``env_num`` rows.

Shapes: ``B`` rows of a minibatch (``[L, n]`` with unrolls, for recurrent networks), ``T`` rows of a block, ``b`` ready
lanes, ``A`` dimensions or heads of an action.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from nervex.agent.agent import Agent
from nervex.config.schema import IntOrInf, option
from nervex.data.lanes import LaneBlock
from nervex.model.rnn import is_recurrent
from nervex.policy.actor_critic import (
    GAECollect,
    GradientLearn,
    acting_agent,
    actor_critic_class,
    build_optimizer,
    check_lengths,
    forward_rows,
    value_after,
    with_advantages,
)
from nervex.policy.base_policy import register_policy
from nervex.policy.common_policy import CommonPolicy
from nervex.policy.config import RolloutPolicyConfig
from nervex.rl_utils.a2c import a2c_data, a2c_error
from nervex.rl_utils.normalize import normalize_advantage
from nervex.torch_utils.compiled import tensor_function


@dataclass
class A2CAlgo:
    discount_factor: float = option(0.99, ge=0, le=1, doc="γ")
    gae_lambda: float = option(1.0, ge=0, le=1, doc="λ of the advantages; 1: whole returns, 0: one-step errors")
    value_weight: float = option(1.0, ge=0, doc="c_v, weight of the value loss")
    entropy_weight: float = option(0.01, ge=0, doc="c_e, weight of the entropy")
    adv_norm: bool = option(False, doc="normalize the advantages of a minibatch")


@dataclass
class A2CLearn(GradientLearn):
    learning_rate: float = option(7e-4, gt=0, doc="step size of the optimizer")
    algo: A2CAlgo = option(default_factory=A2CAlgo, doc="the algorithm")


@dataclass
class A2CCollect(GAECollect):
    traj_len: IntOrInf = option(8, ge=1, doc="rows of a rollout per lane; inf: whole episodes", unit="env steps")


@dataclass
class A2CConfig(RolloutPolicyConfig):
    learn: A2CLearn = option(default_factory=A2CLearn, doc="how to learn")
    collect: A2CCollect = option(default_factory=A2CCollect, doc="how to collect")


class A2CPolicy(CommonPolicy):
    """Policy of A2C for discrete, multi-discrete and continuous actions."""

    config_class = A2CConfig
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
            data: obs, action, adv, return_, weight [B, ...] (or [L, n, ...], with begin [L, n] and prev_state
                [n, ...]).

        Returns:
            scalars: ``total_loss``, ``policy_loss``, ``value_loss``, ``entropy_loss``, ``cur_lr``.
        """
        output = self._update(data)
        return {"cur_lr": self._optimizer.param_groups[0]["lr"], **output}

    @tensor_function
    def _update(self, data: dict[str, Any]) -> dict[str, Any]:
        """Steps down the gradient of the loss and returns the tensors of the output."""
        algo = self._algo
        logit, value = forward_rows(self._agent, data, self._recurrent)  # value [B]
        adv = normalize_advantage(data["adv"], data["weight"]) if algo.adv_norm else data["adv"]  # [B]
        loss = a2c_error(a2c_data(logit, data["action"], value, adv, data["return_"], data["weight"]))
        total = loss.policy_loss + algo.value_weight * loss.value_loss - algo.entropy_weight * loss.entropy_loss

        self._optimizer.descend(total)
        return {
            "total_loss": total.detach(),
            "policy_loss": loss.policy_loss.detach(),
            "value_loss": loss.value_loss.detach(),
            "entropy_loss": loss.entropy_loss.detach(),
        }

    def _init_collect(self) -> None:
        recurrent = is_recurrent(self._model)
        check_lengths(self._cfg, recurrent)
        self._gamma = self._cfg.learn.algo.discount_factor
        self._gae_lambda = self._cfg.learn.algo.gae_lambda
        self._collect_agent = acting_agent(self._model, deterministic=False, recurrent=recurrent)

    def _forward_collect(self, data_id: Any, data: dict[str, Any]) -> dict[str, Any]:
        """Returns ``action`` [b] or [b, A], ``value`` float [b], and ``prev_state`` [b, ...] of a recurrent network,
        for obs [b, ...]."""
        return self._collect_agent.forward(data, data_id=data_id)

    def _process_transition(self, obs: Any, agent_output: dict[str, Any], timestep: Any) -> dict[str, Any]:
        kept: dict[str, Any] = {k: agent_output[k] for k in ("action", "value", "prev_state") if k in agent_output}
        return {"obs": obs, "reward": timestep.reward, **kept}

    def _get_train_sample(self, traj_cache: Any) -> Any:
        block = LaneBlock(traj_cache["lane_id"][0], traj_cache.last_obs)
        lane_id, data = self._data_preprocess_collect(block)
        last_value = value_after(self._collect_agent, data, lane_id)  # [b]
        reward = self.scaled_reward(traj_cache["reward"])  # [T, b]
        return with_advantages(traj_cache, last_value, reward, self._gamma, self._gae_lambda)

    def _init_eval(self) -> None:
        recurrent = is_recurrent(self._model)
        self._eval_agent = acting_agent(self._model, self._cfg.eval.deterministic, recurrent)

    def _forward_eval(self, data_id: Any, data: dict[str, Any]) -> dict[str, Any]:
        """Returns ``action`` [b] or [b, A] for obs [b, ...]: the likeliest one, or one drawn."""
        return self._eval_agent.forward(data, data_id=data_id)

    def _monitor_vars_learn(self) -> list[str]:
        return [*super()._monitor_vars_learn(), "policy_loss", "value_loss", "entropy_loss"]

    @classmethod
    def model_class(cls, cfg: Mapping[str, Any]) -> Any:
        """Returns the actor-critic network for the shape of the observations."""
        return actor_critic_class(cfg)

    def _create_model_from_cfg(self, cfg: Any, model_type: type | None = None) -> torch.nn.Module:
        return (model_type or self.model_class(cfg))(**cfg.model)


register_policy("a2c", A2CPolicy)
