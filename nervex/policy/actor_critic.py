"""What the policies that learn from rollouts share: the checks of their lengths, how they act, and their forwards.

Shapes: ``T`` rows of a block, ``b`` lanes, ``[L, n]`` rows and number of unrolls, ``N`` actions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from nervex.agent.agent import Agent
from nervex.config.schema import option
from nervex.model.value_ac import ConvValueAC, FCValueAC
from nervex.policy.config import RolloutCollectConfig, RolloutLearnConfig
from nervex.rl_utils.adder import Adder
from nervex.rl_utils.distribution import Logit, masked_logit
from nervex.rl_utils.trajectory import Trajectory
from nervex.torch_utils.guarded_optimizer import GuardedOptimizer
from nervex.torch_utils.optimizer import Adam, RMSprop
from nervex.utils.errors import ConfigError
from nervex.utils.tree import tree_map


@dataclass
class GAEAlgo:
    """``policy.collect.algo`` of policies with generalized advantages."""

    discount_factor: float = option(0.99, ge=0, le=1, doc="the same value as policy.learn.algo.discount_factor")
    gae_lambda: float = option(0.95, ge=0, le=1, doc="the same value as policy.learn.algo.gae_lambda")


@dataclass
class GAECollect(RolloutCollectConfig):
    """``policy.collect`` of policies with generalized advantages."""

    algo: GAEAlgo = option(default_factory=GAEAlgo, doc="the algorithm")


@dataclass
class GradientLearn(RolloutLearnConfig):
    """``policy.learn`` of policies that take one plain gradient step per minibatch."""

    optimizer: Literal["rmsprop", "adam"] = option("rmsprop", doc="which one makes steps of gradients")
    optimizer_eps: float = option(1e-5, gt=0, doc="added to the root of the optimizer's mean squared gradient")
    grad_clip_norm: float = option(0.5, gt=0, doc="largest norm of the gradient; longer ones are scaled down")


def build_optimizer(model: nn.Module, cfg: Any) -> GuardedOptimizer:
    """Returns the optimizer that ``cfg``, a :class:`GradientLearn` as mapping, asks for."""
    optimizers: dict[str, Any] = {"rmsprop": RMSprop, "adam": Adam}
    built: GuardedOptimizer = optimizers[cfg.optimizer](
        model.parameters(), lr=cfg.learning_rate, eps=cfg.optimizer_eps, weight_decay=cfg.weight_decay,
        grad_clip_type="clip_norm", clip_value=cfg.grad_clip_norm,
    )  # fmt: skip
    return built


def check_lengths(cfg: Any, recurrent: bool) -> None:
    """Checks that rollouts are long enough for advantages, and unrolls for a memory.

    Args:
        cfg: section ``policy``.
        recurrent: the network has a memory.

    Raises:
        ConfigError: they are not.
    """
    if cfg.learn.ignore_done:
        raise ConfigError(
            "policy.learn.ignore_done is true, but this policy's returns tell terminations from time limits; expected "
            "false: where an episode's end is no termination, let the env report it as truncated"
        )
    traj_len, unroll_len = cfg.collect.traj_len, cfg.collect.unroll_len
    if traj_len == 1:
        raise ConfigError(
            "policy.collect.traj_len is 1, but advantages are estimated from rows that follow each other; expected at "
            "least 2: give a traj_len such as 128, or inf for whole episodes"
        )
    if recurrent and unroll_len == 1:
        raise ConfigError(
            "policy.collect.unroll_len is 1, but the network is recurrent and would learn nothing through time; "
            "expected at least 2: give an unroll_len such as 16 that divides traj_len and batch_size, or a network "
            "without memory"
        )


def acting_agent(model: nn.Module, deterministic: bool, recurrent: bool) -> Agent:
    """Returns an agent that acts: by the likeliest action, or by sampling, which gives ``logp`` too.

    Args:
        model: returns ``logit`` and ``value``.
        deterministic: take the likeliest action.
        recurrent: keep the lanes' recurrent state; the one before the forward is in the output as ``prev_state``.
    """
    agent = Agent(model)
    agent.add_plugin("main", "argmax_sample" if deterministic else "multinomial_sample")
    if recurrent:
        agent.add_plugin("main", "hidden_state", save_prev_state=True)
    agent.add_plugin("main", "grad", enable_grad=False)
    agent.mode(train=False)
    return agent


def value_after(agent: Agent, data: dict[str, Any], lane_id: Tensor) -> Tensor:
    """Returns the values of the observations after a block's last rows, float [b], on the CPU; the lanes' recurrent
    states stay where they are.

    Args:
        agent: the one that collects.
        data: ``{'obs': [b, ...]}``, on the model's device.
        lane_id: int [b].
    """
    output = agent.forward(data, data_id=lane_id)
    if "prev_state" in output:
        agent.reset(data_id=lane_id, state=output["prev_state"])
    value: Tensor = output["value"]
    return value.cpu()


def with_advantages(
    traj: Trajectory, last_value: Tensor, reward: Tensor, gamma: float, gae_lambda: float
) -> Trajectory:
    """Returns the rows with ``adv`` and ``return_`` (see :meth:`nervex.rl_utils.adder.Adder.get_gae`) of ``reward``
    [T, b]; the column of that name stays as it came, for the running scale to see.

    Args:
        traj: rows with ``value`` [T, b].
        last_value: values after the last rows, float [b].
        reward: scaled rewards, float [T, b].
        gamma, gae_lambda: γ and λ.
    """
    raw = traj["reward"]
    traj.columns["reward"] = reward
    sample: Trajectory = Adder().get_gae(traj, last_value, gamma, gae_lambda)
    sample.columns["reward"] = raw
    return sample


def forward_rows(agent: Agent, data: Mapping[str, Any], recurrent: bool) -> tuple[Logit, Tensor]:
    """Returns logits [B, ...] and values [B] of a minibatch, or [L, n, ...] and [L, n] of unrolls.

    Forbidden actions have logits of -1e8, also where the network does not look at ``obs['action_mask']``.

    Args:
        agent: of the network that learns.
        data: obs [B, ...]; unrolls: obs [L, n, ...] and ``begin`` bool [L, n], and if recurrent ``prev_state``
            [n, ...] before row 0.
        recurrent: the network has a memory; others take the rows of unrolls one by one.
    """
    obs = data["obs"]
    if recurrent:
        output = agent.forward({k: data[k] for k in ("obs", "prev_state", "begin")}, sequence=True)
    elif "begin" not in data:
        output = agent.forward({"obs": obs})
    else:
        lead = data["begin"].shape
        flat: Any = agent.forward({"obs": tree_map(lambda x: x.flatten(0, 1), obs)})
        output = {k: tree_map(lambda x: x.unflatten(0, lead), flat[k]) for k in ("logit", "value")}
    mask = obs.get("action_mask") if isinstance(obs, Mapping) else None
    if mask is None:
        return output["logit"], output["value"]
    allowed: Any = tree_map(lambda m: m.bool(), mask)
    logit = masked_logit(output["logit"], allowed)
    return logit, output["value"]


def actor_critic_class(cfg: Mapping[str, Any]) -> Any:
    """Returns the convolutional network for images [C, H, W], the fully connected one for everything else."""
    obs_dim = cfg["model"].get("obs_dim", 0)
    return ConvValueAC if isinstance(obs_dim, list | tuple) and len(obs_dim) == 3 else FCValueAC
