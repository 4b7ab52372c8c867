"""Rainbow: DQN with a distribution of returns, noisy networks, and the double, dueling, n-step and prioritized
extensions together.

Hessel et al. 2018, https://arxiv.org/abs/1710.02298; Bellemare et al. 2017, https://arxiv.org/abs/1707.06887
(distribution); Fortunato et al. 2018, https://arxiv.org/abs/1706.10295 (noisy networks).

    Z(s, a) = Σ_i p_i(s, a)·δ(z_i)             Q(s, a) = Σ_i z_i·p_i(s, a)
    L       = mean_B w·CE(Φ[Σ_{i<n} γ^i·r_i + γ^n·(1 − terminated)·Z'(s_n, argmax_a Q(s_n, a))], Z(s, a))

Φ projects onto the atoms z_i. New noise is drawn for every update and for every step that is collected. Each of the
extensions can be switched off in the configuration (``policy.model.head_kwargs``, ``double``, ``nstep`` 1,
``replay_buffer.sampler``).

Shapes: ``B`` batch, ``b`` ready lanes, ``n`` steps of a window, ``N`` actions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from nervex.agent.agent import Agent
from nervex.config.schema import option
from nervex.data.window import NStepWindow
from nervex.model.discrete_net import NoiseDistributionConvDiscreteNet, NoiseDistributionFCDiscreteNet
from nervex.policy.base_policy import register_policy
from nervex.policy.common_policy import CommonPolicy
from nervex.policy.config import (
    CollectConfig,
    EpsCommandConfig,
    EpsConfig,
    EpsEvalConfig,
    LearnConfig,
    NStepAlgo,
    PolicyConfig,
)  # fmt: skip
from nervex.rl_utils.dist_td import dist_nstep_td_data, dist_nstep_td_error_per_sample
from nervex.rl_utils.exploration import epsilon_greedy
from nervex.torch_utils.compiled import tensor_function
from nervex.torch_utils.optimizer import Adam


@dataclass
class RainbowAlgo:
    discount_factor: float = option(0.99, ge=0, le=1, doc="γ")
    nstep: int = option(3, ge=1, unit="env steps", doc="rewards summed before bootstrapping")
    target_update_freq: int = option(100, ge=1, unit="learner iterations", doc="between copies to the target network")
    double: bool = option(True, doc="choose the bootstrapping action with the online network")


@dataclass
class RainbowLearn(LearnConfig):
    train_step: int = option(4, ge=1, unit="learner iterations", doc="updates after each collection")
    algo: RainbowAlgo = option(default_factory=RainbowAlgo, doc="the algorithm")
    grad_clip_norm: float = option(10.0, gt=0, doc="largest norm of the gradient; longer ones are scaled down")


@dataclass
class RainbowCollect(CollectConfig):
    algo: NStepAlgo = option(default_factory=NStepAlgo, doc="the algorithm")


@dataclass
class RainbowCommand(EpsCommandConfig):
    eps: EpsConfig = option(
        default_factory=lambda: EpsConfig(start=0.0, end=0.0), doc="exploration rate beside the noise of the network"
    )


@dataclass
class RainbowConfig(PolicyConfig):
    learn: RainbowLearn = option(default_factory=RainbowLearn, doc="how to learn")
    collect: RainbowCollect = option(default_factory=RainbowCollect, doc="how to collect")
    eval: EpsEvalConfig = option(default_factory=EpsEvalConfig, doc="how to act in evaluation")
    command: RainbowCommand = option(default_factory=RainbowCommand, doc="what learn tells collect")


class RainbowDQNPolicy(CommonPolicy):
    """Policy of Rainbow for discrete actions."""

    config_class = RainbowConfig
    action_kinds = ("discrete",)

    def _init_learn(self) -> None:
        self._refuse_memory()
        cfg = self._cfg.learn
        self._optimizer = Adam(
            self._model.parameters(), lr=cfg.learning_rate, weight_decay=cfg.weight_decay,
            grad_clip_type="clip_norm", clip_value=cfg.grad_clip_norm,
        )  # fmt: skip
        self._algo = cfg.algo
        self._atoms = self._atoms_of(self._cfg.model)
        self._agent = Agent(self._model)
        self._agent.add_model("target", update_type="assign", update_kwargs={"freq": cfg.algo.target_update_freq})
        self._agent.add_plugin("main", "argmax_sample")
        self._agent.add_plugin("target", "grad", enable_grad=False)
        self._agent.add_plugin("target", "argmax_sample")
        self._agent.mode(train=True)
        self._agent.target_mode(train=True)

    def _forward_learn(self, data: dict[str, Any]) -> dict[str, Any]:
        """Makes one update.

        Args:
            data: obs, next_obs [B, ...], action int64 [B], reward [B, n], done bool [B], value_gamma [B], weight [B].

        Returns:
            ``total_loss`` and ``q_value`` (scalars), ``priority`` float [B], ``cur_lr``.
        """
        self._reset_noise(self._agent.model)
        self._reset_noise(self._agent.target_model)
        output = self._update(data)
        self._agent.target_update(self._agent.state_dict()["model"])
        return {"cur_lr": self._optimizer.param_groups[0]["lr"], **output}

    @tensor_function
    def _update(self, data: dict[str, Any]) -> dict[str, Any]:
        """Steps down the gradient of the loss and returns the tensors of the output."""
        output = self._agent.forward({"obs": data["obs"]})
        target = self._agent.target_forward({"obs": data["next_obs"]})
        next_action = target["action"]  # [B], greedy by the target network
        if self._algo.double:
            with torch.no_grad():
                next_action = self._agent.forward({"obs": data["next_obs"]})["action"]  # [B]
        td_data = dist_nstep_td_data(
            output["distribution"], target["distribution"], data["action"], next_action, data["reward"].T,
            data["done"], data["weight"],
        )  # fmt: skip
        loss, error = dist_nstep_td_error_per_sample(
            td_data, self._algo.discount_factor, *self._atoms, self._algo.nstep, value_gamma=data["value_gamma"]
        )

        self._optimizer.descend(loss)
        return {
            "total_loss": loss.detach(),
            "q_value": output["logit"].detach().mean(),
            "priority": error,  # [B]
        }

    def _init_collect(self) -> None:
        algo = self._cfg.learn.algo
        self._window = NStepWindow(algo.nstep, algo.discount_factor)
        self._eps = self._cfg.command.eps.start
        self._collect_agent = Agent(self._model)
        self._collect_agent.add_plugin("main", "eps_greedy_sample")
        self._collect_agent.add_plugin("main", "grad", enable_grad=False)
        self._collect_agent.mode(train=True)  # the noise explores
        self._collect_setting_set = {"eps"}

    def _forward_collect(self, data_id: Any, data: dict[str, Any]) -> dict[str, Any]:
        """Returns ``action`` int64 [b] for obs [b, ...], by the noisy network, and exploring with rate eps."""
        self._reset_noise(self._model)
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
        """Returns ``action`` int64 [b] for obs [b, ...], by the mean weights."""
        if self._cfg.eval.deterministic:
            return self._eval_agent.forward(data)
        return self._eval_agent.forward(data, eps=self._cfg.eval.eps)

    def _init_command(self) -> None:
        eps = self._cfg.command.eps
        self._epsilon_greedy = epsilon_greedy(eps.start, eps.end, eps.decay, eps.type)

    def _get_setting_collect(self, command_info: dict[str, Any]) -> dict[str, Any]:
        return {"eps": self._epsilon_greedy(command_info["learner_step"])}

    @staticmethod
    def _atoms_of(model: Mapping[str, Any]) -> tuple[float, float, int]:
        """Returns the first atom, the last one and their number; the network has them in the same keys."""
        given = {**model, **(model.get("head_kwargs") or {})}
        return given.get("v_min", -10.0), given.get("v_max", 10.0), given.get("n_atom", 51)

    @staticmethod
    def _reset_noise(model: torch.nn.Module) -> None:
        """Draws new noise, if the network has any."""
        if hasattr(model, "reset_noise"):
            model.reset_noise()  # type: ignore[operator]

    @classmethod
    def model_class(cls, cfg: Mapping[str, Any]) -> Any:
        """Returns the convolutional network for images [C, H, W], the fully connected one for vectors."""
        obs_dim = cfg["model"].get("obs_dim", 0)
        image = isinstance(obs_dim, list | tuple) and len(obs_dim) == 3
        return NoiseDistributionConvDiscreteNet if image else NoiseDistributionFCDiscreteNet


register_policy("rainbow_dqn", RainbowDQNPolicy)
