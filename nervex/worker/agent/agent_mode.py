"""An agent in the place of a policy's collect or eval mode."""

from collections.abc import Mapping
from typing import Any

from nervex.agent.agent import Agent
from nervex.data.lanes import LaneBlock
from nervex.torch_utils.device import device_of, to_device


class AgentMode:
    """What actors and evaluators call, made of an agent alone.

    Args:
        agent: its ``forward`` adds ``action``.
        eps: exploration rate to begin with, handed to ``forward`` as ``eps``; None: the agent takes none.
    """

    def __init__(self, agent: Agent, eps: float | None = None) -> None:
        self._agent = agent
        self._eps = eps
        self._device = device_of(agent.model)

    def data_preprocess(self, data: LaneBlock) -> tuple[Any, dict[str, Any]]:
        """Returns ``(lane ids, {'obs': observations [b, ...] on the model's device})``."""
        return data.lane_id, {"obs": to_device(data.obs, self._device)}

    def forward(self, data_id: Any, data: dict[str, Any]) -> dict[str, Any]:
        """Returns the agent's output, with ``action`` [b, ...]."""
        param = {"data_id": data_id} if self._eps is None else {"data_id": data_id, "eps": self._eps}
        return self._agent.forward(data, param)

    def process_transition(self, obs: Any, agent_output: dict[str, Any], timestep: Any) -> dict[str, Any]:
        """Returns rows with the true next observation. The actor makes ``done`` of the samples mean *terminated*."""
        return {
            "obs": obs,
            "next_obs": timestep.obs,
            "action": agent_output["action"],
            "reward": timestep.reward,
            "done": timestep.done,
        }

    def get_train_sample(self, traj_cache: Any) -> Any:
        """Returns the rows as they are."""
        return traj_cache

    def reset(self, data_id: Any = None) -> None:
        """Forgets what the agent keeps of the lanes ``data_id`` (None: all)."""
        self._agent.reset(data_id)

    def set_setting(self, setting: Mapping[str, Any]) -> None:
        """Takes over ``eps``."""
        self._eps = setting["eps"]
