"""BC: behavior cloning, the supervised learning of recorded actions.

Pomerleau 1991, https://doi.org/10.1162/neco.1991.3.1.88. With ``dataset.best_fraction: 0.1`` it is "10 %-BC", which
clones the tenth of the episodes that have the largest returns (Chen et al. 2021, https://arxiv.org/abs/2106.01345).

    L = −mean_B log π(a | s)              cross-entropy of discrete actions, likelihood of a normal for continuous ones
    L = mean_B Σ_i (μ_i(s) − a_i)²        loss: mse, for continuous actions

Shapes: ``B`` batch, ``b`` ready lanes, ``A`` action dimensions, ``N`` actions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from nervex.agent.agent import Agent
from nervex.config.schema import option
from nervex.model.offline_net import PolicyNet
from nervex.policy.base_policy import register_policy
from nervex.policy.common_policy import CommonPolicy
from nervex.policy.config import PolicyConfig
from nervex.policy.continuous_common import acting_agent
from nervex.policy.offline_common import OfflineLearn, bounded_action
from nervex.rl_utils.distribution import entropy
from nervex.rl_utils.offline import cloning_error, cloning_loss
from nervex.torch_utils.compiled import tensor_function
from nervex.torch_utils.optimizer import Adam
from nervex.utils.errors import ConfigError


@dataclass
class BCAlgo:
    loss: Literal["nll", "mse"] = option(
        "nll", doc="negative log-likelihood, or (continuous actions) squared error of the mean"
    )


@dataclass
class BCLearn(OfflineLearn):
    algo: BCAlgo = option(default_factory=BCAlgo, doc="the algorithm")


@dataclass
class BCConfig(PolicyConfig):
    learn: BCLearn = option(default_factory=BCLearn, doc="how to learn")


class BCPolicy(CommonPolicy):
    """Policy of behavior cloning for discrete and continuous actions."""

    config_class = BCConfig
    action_kinds = ("box", "discrete")
    data_path = "dataset"
    gives_priority = False

    def _init_learn(self) -> None:
        self._refuse_memory()
        cfg = self._cfg.learn
        self._squared = cfg.algo.loss == "mse"
        self._optimizer = Adam(self._model.parameters(), lr=cfg.learning_rate, weight_decay=cfg.weight_decay)
        self._agent = Agent(self._model)
        self._agent.mode(train=True)

    def _forward_learn(self, data: dict[str, Any]) -> dict[str, Any]:
        """Makes one update.

        Args:
            data: obs [B, ...], action int64 [B] or float [B, A].

        Returns:
            ``total_loss``, ``entropy`` (scalars), ``cur_lr``.
        """
        return {"cur_lr": self._optimizer.param_groups[0]["lr"], **self._update(data)}

    @tensor_function
    def _update(self, data: dict[str, Any]) -> dict[str, Any]:
        """Steps down the gradient of the loss and returns the tensors of the output."""
        logit = self._agent.forward({"obs": data["obs"]})["logit"]  # [B, N], or μ and σ [B, A]
        if not self._squared:
            loss = cloning_loss(logit, data["action"], data["weight"])
        elif isinstance(logit, Tensor):
            raise ConfigError("policy.learn.algo.loss is 'mse', but the actions are discrete; use nll")
        else:
            loss = cloning_error(logit["mu"], data["action"], data["weight"])
        self._optimizer.descend(loss)
        spread = entropy(logit if isinstance(logit, Tensor) else {k: v.detach() for k, v in logit.items()})  # [B]
        return {"total_loss": loss.detach(), "entropy": spread.detach().mean()}

    def _init_collect(self) -> None:
        self._collect_agent = acting_agent(self._model)

    def _forward_collect(self, data_id: Any, data: dict[str, Any]) -> dict[str, Any]:
        """Returns ``action`` int64 [b] or float [b, A], drawn from the policy, for obs [b, ...]."""
        return {"action": bounded_action(self._collect_agent.forward(data)["logit"], deterministic=False)}

    def _init_eval(self) -> None:
        self._eval_agent = acting_agent(self._model)

    def _forward_eval(self, data_id: Any, data: dict[str, Any]) -> dict[str, Any]:
        """Returns ``action`` int64 [b] or float [b, A] for obs [b, ...]."""
        return {"action": bounded_action(self._eval_agent.forward(data)["logit"], self._cfg.eval.deterministic)}

    def _monitor_vars_learn(self) -> list[str]:
        return ["cur_lr", "total_loss", "entropy"]

    @classmethod
    def model_class(cls, cfg: Mapping[str, Any]) -> Any:
        """Returns the network of a policy alone."""
        return PolicyNet


register_policy("bc", BCPolicy)
