"""SAC: a stochastic actor that earns reward and entropy, two critics, and a temperature that is learned.

Haarnoja et al. 2018, https://arxiv.org/abs/1812.05905 (with the learned temperature); Fujimoto et al. 2018,
https://arxiv.org/abs/1802.09477 (two critics); Christodoulou 2019, https://arxiv.org/abs/1910.07207 (discrete actions);
Sutton & Barto 2018, chapter 7 (n-step).

    V(s)     = min_c Q'_c(s, a) − α·log π(a | s), a ~ π(s)           discrete: its expectation over all a
    target   = Σ_{i<n} γ^i·r_i + γ^n·(1 − terminated)·V(s_n)
    L_critic = Σ_c mean_B w·(target − Q_c(s, a))²
    L_actor  = mean_B [α·log π(a | s) − min_c Q_c(s, a)], a ~ π(s)   with the critics after their update
    L_alpha  = −mean_B α·(log π(a | s) + H̄)
    θ'       ← (1 − θ)·θ' + θ·θ_main

π is a normal distribution that tanh squashes into [-1, 1]^A, with H̄ = −A unless given, or a categorical one over N
discrete actions, with H̄ = 0.98·log N. α is the same in all three losses of an update.

Shapes: ``B`` batch, ``b`` ready lanes, ``n`` steps of a window, ``A`` action dimensions, ``N`` actions, ``C`` critics.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nervex.config.schema import option
from nervex.data.window import NStepWindow
from nervex.model.encoder import ObsDim
from nervex.model.qac import DiscreteSACNet, SACNet
from nervex.policy.base_policy import register_policy
from nervex.policy.common_policy import CommonPolicy
from nervex.policy.config import PolicyConfig
from nervex.policy.continuous_common import (
    ActorCriticAlgo,
    ActorCriticCollect,
    ActorCriticLearn,
    acting_agent,
    actor_critic_optimizers,
    learning_agent,
    priority,
    td_target,
)
from nervex.rl_utils.continuous import (
    critic_error,
    discrete_sac_policy_loss,
    discrete_soft_value,
    sac_alpha_loss,
    sac_policy_loss,
    soft_value,
)
from nervex.rl_utils.distribution import Logit, entropy, mode, sample, squashed_mode, squashed_sample
from nervex.torch_utils.compiled import tensor_function
from nervex.torch_utils.optimizer import Adam
from nervex.utils.errors import ConfigError


@dataclass
class SACAlgo(ActorCriticAlgo):
    auto_alpha: bool = option(True, doc="learn the temperature")
    alpha: float = option(1.0, gt=0, doc="temperature at the start; all the time when it is not learned")
    target_entropy: float | None = option(
        None, unit="nats", doc="H̄; null: −A of a continuous action, 0.98·log N of a discrete one"
    )


@dataclass
class SACLearn(ActorCriticLearn):
    learning_rate: float = option(3e-4, gt=0, doc="step size of the optimizers")
    learning_rate_alpha: float | None = option(None, gt=0, doc="of the temperature; null: learning_rate")
    algo: SACAlgo = option(default_factory=SACAlgo, doc="the algorithm")


@dataclass
class SACConfig(PolicyConfig):
    learn: SACLearn = option(default_factory=SACLearn, doc="how to learn")
    collect: ActorCriticCollect = option(default_factory=ActorCriticCollect, doc="how to collect")


def sac_net(
    obs_dim: ObsDim,
    action_dim: int,
    action_type: str = "continuous",
    use_twin_critic: bool = True,
    hidden_dim_list: Sequence[int] = (256, 256),
    activation: str = "relu",
    encoder_type: str | None = None,
    embedding_dim: int = 256,
) -> torch.nn.Module:
    """Returns the network for the kind of action, ``'continuous'`` or ``'discrete'``; the other arguments are theirs.

    Raises:
        ConfigError: another kind.
    """
    nets: dict[str, Any] = {"continuous": SACNet, "discrete": DiscreteSACNet}
    if action_type not in nets:
        raise ConfigError(f"policy.model.action_type is '{action_type}'; sac takes {' and '.join(nets)} actions")
    net: torch.nn.Module = nets[action_type](
        obs_dim, action_dim, use_twin_critic, hidden_dim_list, activation, encoder_type, embedding_dim
    )
    return net


class SACPolicy(CommonPolicy):
    """Policy of SAC for continuous and discrete actions; which of them, the network's ``logit`` tells."""

    config_class = SACConfig
    action_kinds = ("box", "discrete")

    def _init_learn(self) -> None:
        cfg = self._cfg.learn
        self._algo = cfg.algo
        self._agent = learning_agent(self._model, cfg.algo.target_theta)
        self._optimizer_actor, self._optimizer_critic = actor_critic_optimizers(self._model, cfg)
        start = math.log(cfg.algo.alpha)
        self._log_alpha = torch.tensor(start, device=self._device, requires_grad=cfg.algo.auto_alpha)
        if cfg.algo.auto_alpha:
            self._optimizer_alpha = Adam([self._log_alpha], lr=cfg.learning_rate_alpha or cfg.learning_rate)

    def _forward_learn(self, data: dict[str, Any]) -> dict[str, Any]:
        """Makes one update of critics, actor and temperature.

        Args:
            data: obs, next_obs [B, ...], action float [B, A] or int64 [B], reward [B, n], done bool [B],
                value_gamma [B], weight [B].

        Returns:
            ``total_loss``, ``critic_loss``, ``actor_loss``, ``alpha``, ``entropy``, ``q_value`` (scalars),
            ``priority`` float [B], ``cur_lr`` of the critics.
        """
        output = self._update(data)
        self._agent.target_update(self._agent.state_dict()["model"])
        return {"cur_lr": self._optimizer_critic.param_groups[0]["lr"], **output}

    @tensor_function
    def _update(self, data: dict[str, Any]) -> dict[str, Any]:
        """Steps down the gradients of the losses and returns the tensors of the output."""
        alpha = self._log_alpha.detach().exp()  # []
        q_value = self._q_value(data["obs"], data["action"])  # [C, B]
        target = td_target(data, self._next_value(data["next_obs"], alpha), self._algo)  # [B]
        critic_loss, td_error = critic_error(q_value, target, data["weight"])
        self._optimizer_critic.descend(critic_loss)
        logit = self._agent.forward({"obs": data["obs"]})["logit"]
        actor_loss, logp = self._actor_loss(data["obs"], logit, alpha)
        self._optimizer_actor.descend(actor_loss)
        if self._algo.auto_alpha:
            self._optimizer_alpha.descend(sac_alpha_loss(self._log_alpha, logp, self._target_entropy(logit)))
        return {
            "total_loss": critic_loss.detach() + actor_loss.detach(),
            "critic_loss": critic_loss.detach(),
            "actor_loss": actor_loss.detach(),
            "alpha": alpha,
            "entropy": -logp.mean(),
            "q_value": q_value.detach().mean(),
            "priority": priority(td_error),  # [B]
        }

    def _q_value(self, obs: Any, action: Tensor) -> Tensor:
        """Returns the critics' values of the actions taken, float [C, B]."""
        q_value: Tensor = self._agent.forward({"obs": obs, "action": action}, mode="compute_q")["q_value"]
        if action.is_floating_point():
            return q_value
        return q_value.gather(-1, action.expand(q_value.shape[:-1]).unsqueeze(-1)).squeeze(-1)

    @torch.no_grad()
    def _next_value(self, obs: Any, alpha: Tensor) -> Tensor:
        """Returns the soft value of the observations by the target critics, float [B]."""
        logit = self._agent.forward({"obs": obs})["logit"]
        if isinstance(logit, Tensor):
            q_value = self._agent.target_forward({"obs": obs}, mode="compute_q")["q_value"]  # [C, B, N]
            return discrete_soft_value(q_value, logit, alpha)
        action, logp = squashed_sample(logit)  # [B, A], [B]
        q_value = self._agent.target_forward({"obs": obs, "action": action}, mode="compute_q")["q_value"]  # [C, B]
        return soft_value(q_value, logp, alpha)

    def _actor_loss(self, obs: Any, logit: Logit, alpha: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the actor's loss, and log π(a | s) float [B] without gradients (discrete: its expectation)."""
        if isinstance(logit, Tensor):
            with torch.no_grad():
                q_value = self._agent.forward({"obs": obs}, mode="compute_q")["q_value"]  # [C, B, N]
                logp = -entropy(logit)  # [B]
            return discrete_sac_policy_loss(logit, q_value, alpha), logp
        assert isinstance(logit, Mapping)
        action, logp = squashed_sample(logit)  # [B, A], [B]
        q_value = self._agent.forward({"obs": obs, "action": action}, mode="compute_q")["q_value"]  # [C, B]
        return sac_policy_loss(logp, q_value, alpha), logp.detach()

    def _target_entropy(self, logit: Any) -> float:
        given: float | None = self._algo.target_entropy
        if given is not None:
            return given
        return 0.98 * math.log(logit.shape[-1]) if isinstance(logit, Tensor) else -float(logit["mu"].shape[-1])

    def _init_collect(self) -> None:
        algo = self._cfg.learn.algo
        self._window = NStepWindow(algo.nstep, algo.discount_factor)
        self._collect_agent = acting_agent(self._model)

    def _forward_collect(self, data_id: Any, data: dict[str, Any]) -> dict[str, Any]:
        """Returns ``action`` float [b, A] or int64 [b], drawn from the policy, for obs [b, ...]."""
        return {"action": _drawn(self._collect_agent.forward(data)["logit"])}

    def _init_eval(self) -> None:
        self._eval_agent = acting_agent(self._model)

    def _forward_eval(self, data_id: Any, data: dict[str, Any]) -> dict[str, Any]:
        """Returns ``action`` float [b, A] or int64 [b] for obs [b, ...]: tanh(μ), or the likeliest one."""
        logit = self._eval_agent.forward(data)["logit"]
        if not self._cfg.eval.deterministic:
            return {"action": _drawn(logit)}
        return {"action": mode(logit) if isinstance(logit, Tensor) else squashed_mode(logit)}

    def _state_dict_handle(self) -> dict[str, Any]:
        optimizers = {k[1:]: v for k, v in vars(self).items() if isinstance(v, torch.optim.Optimizer)}
        return {"model": self._model, **optimizers}

    def _monitor_vars_learn(self) -> list[str]:
        return ["cur_lr", "total_loss", "critic_loss", "actor_loss", "alpha", "entropy", "q_value"]

    @classmethod
    def model_class(cls, cfg: Mapping[str, Any]) -> Any:
        """Returns :func:`sac_net`: a network for the env's kind of action."""
        return sac_net

    def _create_model_from_cfg(self, cfg: Any, model_type: type | None = None) -> torch.nn.Module:
        return (model_type or self.model_class(cfg))(**cfg.model)


def _drawn(logit: Logit) -> Tensor:
    action = sample(logit)
    return action if isinstance(logit, Tensor) else action.tanh()


register_policy("sac", SACPolicy)
