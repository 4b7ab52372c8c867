"""R2D2: recurrent Q-learning from sequences, with stored recurrent states and burn-in.

Kapturowski et al. 2019, https://openreview.net/forum?id=r1lyTjAqYX: stored state and burn-in (section 3), value
rescaling (section 2.3), sequence priorities; double Q-learning, a dueling network and n-step targets as in DQN.

    target_t = h(Σ_{i<k} γ^i·r_{t+i} + γ^k·(1 − terminated)·h⁻¹(Q'(s_{t+k}, argmax_a Q(s_{t+k}, a))))
    δ_t      = target_t − Q(s_t, a_t)
    L        = mean over trained rows of w·δ_t²
    p        = η·max_t |δ_t| + (1 − η)·mean_t |δ_t|

k is n, or fewer steps where the episode or the sequence ends. Rows of the burn-in only bring the recurrent state to
where the present weights would have it; every later row that has a successor in the sequence is trained. Sequences may
hold ends and beginnings of episodes: the state is reset at a beginning.

Shapes: ``L`` rows of a sequence, ``B`` batch of sequences, ``b`` ready lanes, ``H`` recurrent state, ``N`` actions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from nervex.agent.agent import Agent
from nervex.config.schema import option
from nervex.data.window import SequenceWindow
from nervex.model.discrete_net import ConvRDiscreteNet, FCRDiscreteNet
from nervex.policy.base_policy import register_policy
from nervex.policy.common_policy import CommonPolicy
from nervex.policy.config import (
    CollectConfig,
    EpsCommandConfig,
    EpsEvalConfig,
    LearnConfig,
    NStepAlgo,
    PolicyConfig,
)  # fmt: skip
from nervex.rl_utils.exploration import epsilon_greedy
from nervex.rl_utils.sequence_td import nstep_sequence_target, sequence_priority
from nervex.rl_utils.value_rescale import value_inv_transform, value_transform
from nervex.torch_utils.compiled import tensor_function
from nervex.torch_utils.optimizer import Adam
from nervex.utils.errors import ConfigError
from nervex.utils.tree import tree_map


@dataclass
class R2D2Algo:
    discount_factor: float = option(0.99, ge=0, le=1, doc="γ")
    nstep: int = option(3, ge=1, unit="env steps", doc="rewards summed before bootstrapping")
    target_update_freq: int = option(200, ge=1, unit="learner iterations", doc="between copies to the target network")
    burnin_step: int = option(4, ge=0, unit="rows", doc="at a sequence's beginning that only warm the state up")
    unroll_stride: int | None = option(
        None, ge=1, unit="rows", doc="between the beginnings of sequences; null: every row is trained in one of them"
    )
    value_rescale: bool = option(True, doc="learn h(Q) = sign(Q)·(√(|Q| + 1) − 1) + 0.01·Q")
    priority_eta: float = option(0.9, ge=0, le=1, doc="η, the part of the largest error in a sequence's priority")


@dataclass
class R2D2Learn(LearnConfig):
    batch_size: int = option(32, ge=1, unit="sequences", doc="sequences of one update")
    algo: R2D2Algo = option(default_factory=R2D2Algo, doc="the algorithm")
    grad_clip_norm: float = option(40.0, gt=0, doc="largest norm of the gradient; longer ones are scaled down")


@dataclass
class R2D2Collect(CollectConfig):
    unroll_len: int = option(16, ge=2, unit="rows", doc="rows of a sequence, burn-in included")
    algo: NStepAlgo = option(default_factory=NStepAlgo, doc="the algorithm")


@dataclass
class R2D2Config(PolicyConfig):
    learn: R2D2Learn = option(default_factory=R2D2Learn, doc="how to learn")
    collect: R2D2Collect = option(default_factory=R2D2Collect, doc="how to collect")
    eval: EpsEvalConfig = option(default_factory=EpsEvalConfig, doc="how to act in evaluation")
    command: EpsCommandConfig = option(default_factory=EpsCommandConfig, doc="what learn tells collect")


class R2D2Policy(CommonPolicy):
    """Policy of R2D2 for discrete actions."""

    config_class = R2D2Config
    action_kinds = ("discrete",)

    def _init_learn(self) -> None:
        cfg = self._cfg.learn
        self._check_lengths()
        self._optimizer = Adam(
            self._model.parameters(), lr=cfg.learning_rate, weight_decay=cfg.weight_decay,
            grad_clip_type="clip_norm", clip_value=cfg.grad_clip_norm,
        )  # fmt: skip
        self._algo = cfg.algo
        self._agent = Agent(self._model)
        self._agent.add_model("target", update_type="assign", update_kwargs={"freq": cfg.algo.target_update_freq})
        self._agent.add_plugin("target", "grad", enable_grad=False)
        self._agent.mode(train=True)
        self._agent.target_mode(train=True)

    def _check_lengths(self) -> None:
        algo, unroll_len = self._cfg.learn.algo, self._cfg.collect.unroll_len
        if unroll_len < algo.burnin_step + algo.nstep + 1:
            raise ConfigError(
                f"policy.collect.unroll_len is {unroll_len}, too short for a burn-in of {algo.burnin_step} rows and "
                f"{algo.nstep}-step targets; expected at least {algo.burnin_step + algo.nstep + 1}: make unroll_len "
                "larger, or policy.learn.algo.burnin_step smaller"
            )

    def _forward_learn(self, data: dict[str, Any]) -> dict[str, Any]:
        """Makes one update.

        Args:
            data: obs, action int64, reward, terminated, truncated, valid, begin [L, B, ...], prev_state [B, H],
                weight [B].

        Returns:
            ``total_loss`` and ``q_value`` (scalars), ``priority`` float [B], ``cur_lr``.
        """
        output = self._update(data)
        self._agent.target_update(self._agent.state_dict()["model"])
        return {"cur_lr": self._optimizer.param_groups[0]["lr"], **output}

    @tensor_function
    def _update(self, data: dict[str, Any]) -> dict[str, Any]:
        """Steps down the gradient of the loss and returns the tensors of the output."""
        state, target_state = self._burn_in(data)
        data = {k: v if k == "weight" or v is None else _later(v, self._algo.burnin_step) for k, v in data.items()}
        inputs = {"obs": data["obs"], "begin": data["begin"]}
        q_value = self._agent.forward({**inputs, "prev_state": state}, sequence=True)["logit"]  # [L, B, N]
        target_q = self._agent.target_forward({**inputs, "prev_state": target_state}, sequence=True)["logit"]
        rescale = (value_transform, value_inv_transform) if self._algo.value_rescale else (None, None)
        best = q_value.detach().argmax(dim=-1, keepdim=True)  # [L, B, 1]
        target, trained = nstep_sequence_target(
            target_q.gather(-1, best).squeeze(-1), data["reward"], data["terminated"], data["truncated"],
            data["valid"], self._algo.discount_factor, self._algo.nstep, *rescale,
        )  # fmt: skip  # float, bool [L, B]
        taken = q_value.gather(-1, data["action"].unsqueeze(-1)).squeeze(-1)  # [L, B]
        td_error = torch.where(trained, target - taken, 0.0)
        weight = trained if data["weight"] is None else trained * data["weight"]
        loss = (weight * td_error.square()).sum() / trained.sum().clamp(min=1)

        self._optimizer.descend(loss)
        return {
            "total_loss": loss.detach(),
            "q_value": taken.detach().mean(),
            "priority": sequence_priority(td_error, trained, self._algo.priority_eta),  # [B]
        }

    def _burn_in(self, data: dict[str, Any]) -> tuple[Any, Any]:
        """Returns the states of both networks after the burn-in rows."""
        stored = data["prev_state"]
        rows = self._algo.burnin_step
        if rows == 0:
            return stored, stored
        first: Any = tree_map(lambda x: x[:rows], {"obs": data["obs"], "begin": data["begin"]})
        with torch.no_grad():
            main = self._agent.forward({**first, "prev_state": stored}, sequence=True)["next_state"]
            target = self._agent.target_forward({**first, "prev_state": stored}, sequence=True)["next_state"]
        return main, target

    def _init_collect(self) -> None:
        self._check_lengths()
        algo, unroll_len = self._cfg.learn.algo, self._cfg.collect.unroll_len
        self._window = SequenceWindow(unroll_len, algo.unroll_stride or unroll_len - algo.burnin_step - 1)
        self._eps = self._cfg.command.eps.start
        self._collect_agent = Agent(self._model)
        self._collect_agent.add_plugin("main", "eps_greedy_sample")
        self._collect_agent.add_plugin("main", "hidden_state", save_prev_state=True)
        self._collect_agent.add_plugin("main", "grad", enable_grad=False)
        self._collect_agent.mode(train=False)
        self._collect_setting_set = {"eps"}

    def _forward_collect(self, data_id: Any, data: dict[str, Any]) -> dict[str, Any]:
        """Returns ``action`` int64 [b] for obs [b, ...], exploring with rate eps, and ``prev_state`` [b, H]."""
        return self._collect_agent.forward(data, data_id=data_id, eps=self._eps)

    def _process_transition(self, obs: Any, agent_output: dict[str, Any], timestep: Any) -> dict[str, Any]:
        return {
            "obs": obs,
            "action": agent_output["action"],
            "reward": timestep.reward,
            "prev_state": agent_output["prev_state"],
        }

    def _get_train_sample(self, traj_cache: Any) -> Any:
        return traj_cache  # rows; the replay gathers sequences from them

    def _init_eval(self) -> None:
        self._eval_agent = Agent(self._model)
        self._eval_agent.add_plugin("main", "argmax_sample" if self._cfg.eval.deterministic else "eps_greedy_sample")
        self._eval_agent.add_plugin("main", "hidden_state")
        self._eval_agent.add_plugin("main", "grad", enable_grad=False)
        self._eval_agent.mode(train=False)

    def _forward_eval(self, data_id: Any, data: dict[str, Any]) -> dict[str, Any]:
        """Returns ``action`` int64 [b] for obs [b, ...]."""
        if self._cfg.eval.deterministic:
            return self._eval_agent.forward(data, data_id=data_id)
        return self._eval_agent.forward(data, data_id=data_id, eps=self._cfg.eval.eps)

    def _init_command(self) -> None:
        eps = self._cfg.command.eps
        self._epsilon_greedy = epsilon_greedy(eps.start, eps.end, eps.decay, eps.type)

    def _get_setting_collect(self, command_info: dict[str, Any]) -> dict[str, Any]:
        return {"eps": self._epsilon_greedy(command_info["learner_step"])}

    @classmethod
    def model_class(cls, cfg: Mapping[str, Any]) -> Any:
        """Returns the convolutional network for images [C, H, W], the fully connected one for vectors."""
        obs_dim = cfg["model"].get("obs_dim", 0)
        return ConvRDiscreteNet if isinstance(obs_dim, list | tuple) and len(obs_dim) == 3 else FCRDiscreteNet


def _later(column: Any, rows: int) -> Any:
    """Returns a column without its first rows."""
    later: Any = tree_map(lambda x: x[rows:], column)
    return later


register_policy("r2d2", R2D2Policy)
