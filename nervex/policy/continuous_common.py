"""What actor-critic policies with a replay share: sections of their configuration, their agents, one optimizer step."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from nervex.agent.agent import Agent
from nervex.config.schema import option
from nervex.policy.config import CollectConfig, LearnConfig, NStepAlgo
from nervex.rl_utils.td import nstep_return, nstep_return_data
from nervex.torch_utils.optimizer import Adam


@dataclass
class ActorCriticAlgo:
    discount_factor: float = option(0.99, ge=0, le=1, doc="γ")
    nstep: int = option(1, ge=1, unit="env steps", doc="rewards summed before bootstrapping")
    target_theta: float = option(0.005, gt=0, le=1, doc="θ: part of the way that the target network goes per update")


@dataclass
class DeterministicAlgo(ActorCriticAlgo):
    actor_update_freq: int = option(
        1, ge=1, unit="learner iterations", doc="between updates of the actor and of the target network"
    )


@dataclass
class ActorCriticLearn(LearnConfig):
    batch_size: int = option(256, ge=1, unit="samples", doc="samples of one update")
    learning_rate_actor: float | None = option(None, gt=0, doc="of the actor; null: learning_rate")
    learning_rate_critic: float | None = option(None, gt=0, doc="of the critic; null: learning_rate")
    grad_clip_norm: float = option(
        float("inf"), gt=0, doc="largest norm of the gradient of each of actor and critic; longer ones are scaled down"
    )


@dataclass
class OneStepAlgo(NStepAlgo):
    nstep: int = option(1, ge=1, unit="env steps", doc="the same value as policy.learn.algo.nstep")


@dataclass
class ActorCriticCollect(CollectConfig):
    algo: OneStepAlgo = option(default_factory=OneStepAlgo, doc="the algorithm")


@dataclass
class NoiseCollect(ActorCriticCollect):
    noise_type: Literal["gauss", "ou"] = option(
        "gauss", doc="independent normal noise, or an Ornstein-Uhlenbeck process"
    )
    noise_sigma: float = option(0.1, ge=0, doc="σ of the noise; actions lie in [-1, 1]")


def actor_critic_optimizers(model: torch.nn.Module, cfg: Any) -> tuple[Adam, Adam]:
    """Returns the optimizers of ``model.actor`` and of ``model.critic``.

    Args:
        model: the network.
        cfg: an ``ActorCriticLearn``.
    """
    actor, critic = (
        Adam(
            part.parameters(),  # type: ignore[union-attr]
            lr=rate or cfg.learning_rate,
            weight_decay=cfg.weight_decay,
            grad_clip_type=None if cfg.grad_clip_norm == float("inf") else "clip_norm",
            clip_value=cfg.grad_clip_norm,
        )
        for part, rate in ((model.actor, cfg.learning_rate_actor), (model.critic, cfg.learning_rate_critic))
    )
    return actor, critic


def td_target(data: Mapping[str, Any], next_value: Tensor, algo: Any) -> Tensor:
    """Returns the n-step target of a batch of ``NStepWindow``, float [B].

    Args:
        data: reward [B, n], done bool [B] (terminated), value_gamma [B].
        next_value: bootstrap value of next_obs, float [B].
        algo: an ``ActorCriticAlgo``.
    """
    window = nstep_return_data(data["reward"].T, next_value, data["done"])
    return nstep_return(window, algo.discount_factor, algo.nstep, data["value_gamma"])


def priority(td_error: Tensor) -> Tensor:
    """Returns the priority of each sample: |δ|, averaged over the critics.

    Args:
        td_error: δ of one critic [B] or of several [C, B].
    """
    return td_error.abs() if td_error.dim() == 1 else td_error.abs().mean(dim=0)


def learning_agent(model: torch.nn.Module, theta: float) -> Agent:
    """Returns the agent of learn mode, whose target network follows by momentum θ and has no gradients."""
    agent = Agent(model)
    agent.add_model("target", update_type="momentum", update_kwargs={"theta": theta})
    agent.add_plugin("target", "grad", enable_grad=False)
    agent.mode(train=True)
    agent.target_mode(train=True)
    return agent


def acting_agent(model: torch.nn.Module, noise: Any = None) -> Agent:
    """Returns an agent for collect or eval mode.

    Args:
        model: the network.
        noise: a ``NoiseCollect``: add its noise to the actions and clip them to [-1, 1]; None: no noise.
    """
    agent = Agent(model)
    if noise is not None:
        agent.add_plugin("main", "action_noise", noise_type=noise.noise_type, noise_kwargs={"sigma": noise.noise_sigma})
    agent.add_plugin("main", "grad", enable_grad=False)
    agent.mode(train=False)
    return agent
