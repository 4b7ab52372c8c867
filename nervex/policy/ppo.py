"""PPO: proximal policy optimization with clipped ratios and generalized advantages.

Schulman et al. 2017, https://arxiv.org/abs/1707.06347 (the clipped surrogate); Schulman et al. 2016,
https://arxiv.org/abs/1506.02438 (advantages); Ye et al. 2020, https://arxiv.org/abs/1912.09729 (dual clip); Huang et
al. 2022, https://iclr-blog-track.github.io/2022/03/25/ppo-implementation-details/ (recurrent networks, Adam's epsilon,
advantages normalized by minibatch).

    ρ = π(a|s) / π_old(a|s)
    L = −mean min(ρ·A, clip(ρ, 1 − ε, 1 + ε)·A) + c_v·½·mean (V(s) − G)² − c_e·mean H(π(·|s))
    A: generalized advantages, by minibatch of mean 0 and standard deviation 1;  G = A + V_old(s)

Defaults are those of Stable-Baselines3 2.3 (``value_weight`` 1 there is ``vf_coef`` 0.5, for its loss has no ½).

With a recurrent network, samples are unrolls: the state of the first row is the one that was stored when collecting,
and it is reset where an episode begins.

Shapes: ``B`` rows of a minibatch (``[L, n]`` with unrolls), ``T`` rows of a block, ``b`` ready lanes, ``A`` dimensions
or heads of an action.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from nervex.agent.agent import Agent
from nervex.config.schema import option
from nervex.data.lanes import LaneBlock
from nervex.model.rnn import is_recurrent
from nervex.policy.actor_critic import (
    GAECollect,
    acting_agent,
    actor_critic_class,
    check_lengths,
    forward_rows,
    value_after,
    with_advantages,
)
from nervex.policy.base_policy import register_policy
from nervex.policy.common_policy import CommonPolicy
from nervex.policy.config import RolloutLearnConfig, RolloutPolicyConfig
from nervex.rl_utils.distribution import log_prob_and_entropy
from nervex.rl_utils.normalize import normalize_advantage
from nervex.rl_utils.ppo import ppo_logp_data, ppo_logp_error
from nervex.torch_utils.compiled import tensor_function
from nervex.torch_utils.optimizer import Adam


@dataclass
class PPOAlgo:
    discount_factor: float = option(0.99, ge=0, le=1, doc="γ")
    gae_lambda: float = option(0.95, ge=0, le=1, doc="λ of the advantages; 1: whole returns, 0: one-step errors")
    clip_ratio: float = option(0.2, gt=0, doc="ε, how far a ratio may go from 1 and still be learned from")
    value_clip: bool = option(False, doc="hold values within ε of what they were when collecting")
    dual_clip: float | None = option(None, gt=1, doc="bound of ρ where the advantage is negative; null: none")
    value_weight: float = option(1.0, ge=0, doc="c_v, weight of the value loss")
    entropy_weight: float = option(0.0, ge=0, doc="c_e, weight of the entropy")
    adv_norm: bool = option(True, doc="normalize the advantages of a minibatch")
    target_kl: float | None = option(None, gt=0, doc="a rollout is left at 1.5 times this divergence; null: never")


@dataclass
class PPOLearn(RolloutLearnConfig):
    epoch_per_collect: int = option(10, ge=1, unit="passes", doc="over each rollout, in minibatches of batch_size")
    learning_rate: float = option(3e-4, gt=0, doc="step size of the optimizer")
    algo: PPOAlgo = option(default_factory=PPOAlgo, doc="the algorithm")
    grad_clip_norm: float = option(0.5, gt=0, doc="largest norm of the gradient; longer ones are scaled down")


@dataclass
class PPOConfig(RolloutPolicyConfig):
    learn: PPOLearn = option(default_factory=PPOLearn, doc="how to learn")
    collect: GAECollect = option(default_factory=GAECollect, doc="how to collect")


class PPOPolicy(CommonPolicy):
    """Policy of PPO for discrete, multi-discrete and continuous actions."""

    config_class = PPOConfig
    action_kinds = ("discrete", "multi_discrete", "box")
    gives_priority = False
    data_path = "rollout"

    def _init_learn(self) -> None:
        cfg = self._cfg.learn
        self._optimizer = Adam(
            self._model.parameters(), lr=cfg.learning_rate, eps=1e-5, weight_decay=cfg.weight_decay,
            grad_clip_type="clip_norm", clip_value=cfg.grad_clip_norm,
        )  # fmt: skip
        self._algo = cfg.algo
        self._recurrent = is_recurrent(self._model)
        self._agent = Agent(self._model)
        self._agent.mode(train=True)

    def _forward_learn(self, data: dict[str, Any]) -> dict[str, Any]:
        """Makes one update.

        Args:
            data: obs, action, logp, value, adv, return_, weight [B, ...] (or [L, n, ...], with begin [L, n] and
                prev_state [n, ...]).

        Returns:
            scalars: ``total_loss``, ``policy_loss``, ``value_loss``, ``entropy_loss``, ``approx_kl``, ``clipfrac``,
            ``cur_lr``; ``stop_epochs`` true where the policy has moved far enough from the one that collected, and
            nothing was updated any more.
        """
        output = self._update(data)
        return {"cur_lr": self._optimizer.param_groups[0]["lr"], **output}

    @tensor_function
    def _update(self, data: dict[str, Any]) -> dict[str, Any]:
        """Steps down the gradient of the loss and returns the tensors of the output."""
        algo = self._algo
        logit, value = forward_rows(self._agent, data, self._recurrent)  # value [B]
        logp, entropy = log_prob_and_entropy(logit, data["action"])  # [B]
        adv = normalize_advantage(data["adv"], data["weight"]) if algo.adv_norm else data["adv"]  # [B]
        loss, info = ppo_logp_error(
            ppo_logp_data(logp, data["logp"], entropy, value, data["value"], adv, data["return_"], data["weight"]),
            algo.clip_ratio, algo.value_clip, algo.dual_clip,
        )  # fmt: skip
        total = loss.policy_loss + algo.value_weight * loss.value_loss - algo.entropy_weight * loss.entropy_loss

        far = algo.target_kl is not None and bool(info.approx_kl > 1.5 * algo.target_kl)
        if not far:
            self._optimizer.descend(total)
        return {
            "total_loss": total.detach(),
            "policy_loss": loss.policy_loss.detach(),
            "value_loss": loss.value_loss.detach(),
            "entropy_loss": loss.entropy_loss.detach(),
            "approx_kl": info.approx_kl,
            "clipfrac": info.clipfrac,
            **({"stop_epochs": True} if far else {}),
        }

    def _init_collect(self) -> None:
        recurrent = is_recurrent(self._model)
        check_lengths(self._cfg, recurrent)
        self._gamma = self._cfg.learn.algo.discount_factor
        self._gae_lambda = self._cfg.learn.algo.gae_lambda
        self._collect_agent = acting_agent(self._model, deterministic=False, recurrent=recurrent)

    def _forward_collect(self, data_id: Any, data: dict[str, Any]) -> dict[str, Any]:
        """Returns ``action`` [b] or [b, A], its ``logp`` and the ``value`` float [b], and ``prev_state`` [b, ...] of a
        recurrent network, for obs [b, ...]."""
        return self._collect_agent.forward(data, data_id=data_id)

    def _process_transition(self, obs: Any, agent_output: dict[str, Any], timestep: Any) -> dict[str, Any]:
        kept: dict[str, Any] = {
            k: agent_output[k] for k in ("action", "logp", "value", "prev_state") if k in agent_output
        }
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
        return [*super()._monitor_vars_learn(), "policy_loss", "value_loss", "entropy_loss", "approx_kl", "clipfrac"]

    @classmethod
    def model_class(cls, cfg: Mapping[str, Any]) -> Any:
        """Returns the actor-critic network for the shape of the observations."""
        return actor_critic_class(cfg)

    def _create_model_from_cfg(self, cfg: Any, model_type: type | None = None) -> torch.nn.Module:
        return (model_type or self.model_class(cfg))(**cfg.model)


register_policy("ppo", PPOPolicy)
