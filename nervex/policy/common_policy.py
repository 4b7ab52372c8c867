"""What most policies share: moving data, resetting agents, keeping state."""

from collections.abc import Mapping
from typing import Any

import torch

from nervex.agent.agent import Agent
from nervex.data.columns import stack
from nervex.data.lanes import LaneBlock
from nervex.model.rnn import is_recurrent
from nervex.policy.base_policy import Policy
from nervex.torch_utils.device import to_device
from nervex.utils.errors import CheckpointError, ConfigError
from nervex.utils.tree import tree_map


class CommonPolicy(Policy):
    """A policy whose data are plain columns and whose state lives in its optimizers and agents."""

    #: further attributes that a checkpoint must hold: counters and other plain values
    state_names: tuple[str, ...] = ()

    _collect_agent: Agent
    _eval_agent: Agent

    def _create_model_from_cfg(self, cfg: Any, model_type: type | None = None) -> torch.nn.Module:
        """Returns a network of the given class, or of the policy's own, with the arguments in ``cfg.model``."""
        return (model_type or self.model_class(cfg))(**cfg.model)

    def _refuse_memory(self) -> None:
        """Raises ConfigError where the network has a memory, for policies that learn from single rows."""
        if is_recurrent(self._model):
            raise ConfigError(
                f"policy {type(self).__name__} learns from single rows, but its network is recurrent and would begin "
                "each of them without memory; use policy_type: r2d2, or policy.model.rnn_type: none"
            )

    def _data_preprocess_learn(self, data: Any) -> dict[str, Any]:
        """Returns the batch on the model's device, with ``weight`` (None when absent) and ``ignore_done`` applied.

        Args:
            data: columns [B, ...], or a list of samples.
        """
        batch = stack(list(data)) if isinstance(data, list | tuple) else dict(data)
        if self._use_cuda:
            batch = to_device(batch, self._device)
        if self._cfg.learn.ignore_done and batch.get("done") is not None:
            batch["done"] = torch.zeros_like(batch["done"])
        if self._cfg.learn.ignore_done and "terminated" in batch:
            batch["truncated"] = batch["truncated"] | batch["terminated"]
            batch["terminated"] = torch.zeros_like(batch["terminated"])
        if self._cfg.normalize.reward:
            batch["reward"] = self.scaled_reward(batch["reward"])
        batch.setdefault("weight", None)
        return batch

    def _data_preprocess_collect(self, data: Any) -> tuple[Any, dict[str, Any]]:
        """Returns ``(lane ids, {'obs': batch})`` of a ``LaneBlock`` or a mapping ``{id: observation}``."""
        if isinstance(data, LaneBlock):
            lane_id: Any = data.lane_id
            obs = data.obs
        else:
            lane_id, obs = list(data), stack(list(data.values()))
        return lane_id, {"obs": to_device(obs, self._device) if self._use_cuda else obs}

    def _data_postprocess_collect(self, data_id: Any, data: Any) -> dict[int, Any]:
        """Returns ``{lane id: its part of the output}``."""
        return {int(lane): tree_map(lambda x, row=row: x[row], data) for row, lane in enumerate(data_id)}

    _data_preprocess_eval = _data_preprocess_collect
    _data_postprocess_eval = _data_postprocess_collect

    def _process_transition(self, obs: Any, agent_output: dict[str, Any], timestep: Any) -> dict[str, Any]:
        return {"obs": obs, "action": agent_output["action"], "reward": timestep.reward}

    def _get_train_sample(self, traj_cache: Any) -> Any:
        return traj_cache

    def _reset_collect(self, data_id: Any = None) -> None:
        self._collect_agent.reset(data_id=data_id)

    def _reset_eval(self, data_id: Any = None) -> None:
        self._eval_agent.reset(data_id=data_id)

    def load_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Begins with these weights of the network; target networks follow at once."""
        super().load_weights(weights)
        for part in self._parts().values():
            if isinstance(part, Agent) and part.has_model("target"):
                part.target_update(weights, direct=True)

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of every attribute that has one: agents, optimizers, schedules, further networks, tensors,
        and the plain values named in ``state_names``."""
        states: dict[str, Any] = {name: getattr(self, name) for name in self.state_names}
        for name, part in self._parts().items():
            if isinstance(part, Agent):
                states[name] = part.full_state(self._model)
            else:
                states[name] = part.detach().clone() if isinstance(part, torch.Tensor) else part.state_dict()
        return states

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`state_dict` gave.

        Raises:
            CheckpointError: the state has other parts than this policy.
        """
        parts = self._parts()
        own = {*parts, *self.state_names}
        if own != state.keys():
            raise CheckpointError(
                f"the saved state of policy {type(self).__name__} has the parts {sorted(state)}, this one {sorted(own)}"
            )
        for name in self.state_names:
            setattr(self, name, state[name])
        for name, part in parts.items():
            if isinstance(part, Agent):
                part.load_full_state(state[name])
            elif isinstance(part, torch.Tensor):
                with torch.no_grad():
                    part.copy_(state[name])
            else:
                part.load_state_dict(state[name])

    def _parts(self) -> dict[str, Any]:
        return {
            name: value
            for name, value in vars(self).items()
            if value is not self._model
            and (isinstance(value, Agent | torch.Tensor) or hasattr(value, "load_state_dict"))
        }
