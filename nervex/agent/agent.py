"""An agent: a model, how it behaves in one role (learn, collect, eval), and its target and teacher."""

import copy
import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nervex.agent.plugin import PLUGIN_REGISTRY, AgentPlugin, Forward
from nervex.agent.runtime_plugins import GradPlugin
from nervex.torch_utils.captured import CapturedFunction
from nervex.utils.errors import ConfigError, did_you_mean
from nervex.utils.tree import tree_map


class LiveState(Mapping):
    """State dict of a module, made when it is first looked into: a target network that copies every 100th time costs
    nothing the other 99.

    Attributes:
        module: whose state it is.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._state: Mapping[str, Tensor] | None = None

    def _read(self) -> Mapping[str, Tensor]:
        if self._state is None:
            self._state = self.module.state_dict()
        return self._state

    def __getitem__(self, key: str) -> Tensor:
        return self._read()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())


class BaseAgent:
    """A model with an ordered tuple of plugins, composed into one forward when a plugin is added.

    The train / eval mode is kept here and put on the model at each forward, so that agents which share a model do not
    leave it in each other's mode.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.plugins: dict[str, AgentPlugin] = {}
        self._train = model.training
        self._frozen = False
        self._forward: Forward = self._model_forward
        self._autocast: torch.dtype | None = None
        self.captured: CapturedFunction | None = None

    def add_plugin(self, name: str, **kwargs: Any) -> None:
        """Wraps the forward with the registered plugin ``name``.

        Raises:
            ConfigError: it is there already, or does not take these arguments.
        """
        if name in self.plugins:
            raise ConfigError(f"agent has plugin '{name}' already; a plugin is added once")
        plugin_class = PLUGIN_REGISTRY.get(name)
        _check_arguments(name, plugin_class, kwargs)
        plugin: AgentPlugin = plugin_class(**kwargs)
        plugin.bind(self.model)
        self.plugins[name] = plugin
        self._forward = plugin.wrap(self._forward)
        self.captured = None
        if plugin.frozen:
            self._train, self._frozen = False, True

    def forward(self, data: Any, param: Mapping[str, Any] | None = None, **kwargs: Any) -> dict[str, Any]:
        """Returns the model's output after the plugins.

        Args:
            data: ``{'obs': ..., ...}``; anything else is taken for the observation itself.
            param: keyword arguments for plugins and model; the same as ``kwargs``. ``data_id``, the lane ids of the
                rows, is for the plugins that keep something per lane; the model does not see it.
        """
        if not (isinstance(data, Mapping) and "obs" in data):
            data = {"obs": data}
        param = {**(param or {}), **kwargs}
        if self.captured is not None:
            param.pop("data_id", None)
            numbers = {k: torch.tensor(v, dtype=torch.float64) if isinstance(v, float) else v for k, v in param.items()}
            return self.captured((dict(data), numbers, self._train, self._autocast))  # type: ignore[no-any-return]
        if "data_id" in param:
            param["data_id"] = _lane_index(param["data_id"])
        return self._run((data, param, self._train, self._autocast))

    def capture(self) -> None:
        """Lets the forward be played from a tape of its kernels where it is a function of tensors without gradients: on
        a CPU, with plugins of nerveX's that keep nothing."""
        grad = self.plugins.get("grad")
        ours = all(type(part).__module__.startswith("nervex.") for part in (self, *self.plugins.values()))
        pure = all(plugin.is_function for plugin in self.plugins.values())
        if isinstance(grad, GradPlugin) and not grad.enable_grad and ours and pure:
            self.captured = CapturedFunction(self._run, [self.model])

    def _run(self, given: tuple[Any, ...]) -> dict[str, Any]:
        data, param, train, _ = given
        if self.model.training is not train:
            self.model.train(train)
        return self._forward(dict(data), dict(param))

    def mode(self, train: bool) -> None:
        """Chooses train or eval mode for every following forward; a frozen agent (a teacher) stays in eval mode."""
        self._train = train and not self._frozen

    def reset(self, data_id: Iterable[int] | Tensor | None = None, **kwargs: Any) -> None:
        """Resets the state that plugins keep for the lanes ``data_id`` (None: all)."""
        index = _lane_index(data_id)
        for plugin in self.plugins.values():
            plugin.reset(index, **kwargs)

    def state_dict(self) -> dict[str, Any]:
        """Returns ``{'model': the model's live state}``, a mapping that is read when it is looked into."""
        return {"model": LiveState(self.model)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Loads the model's weights from ``state['model']``."""
        self.model.load_state_dict(state["model"])

    def plugin_state(self) -> dict[str, Any]:
        """Returns the state of every plugin that has one."""
        states = {name: plugin.state_dict() for name, plugin in self.plugins.items()}
        return {name: state for name, state in states.items() if state}

    def load_plugin_state(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`plugin_state` gave."""
        for name, plugin_state in state.items():
            self.plugins[name].load_state_dict(plugin_state)

    def autocast(self, dtype: torch.dtype | None) -> None:
        """Makes the model compute its products in ``dtype`` (None: in that of its weights); its output is float32."""
        self._autocast = dtype

    def _model_forward(self, data: dict[str, Any], param: dict[str, Any]) -> dict[str, Any]:
        param.pop("data_id", None)
        if self._autocast is None:
            return self.model(data, **param)  # type: ignore[no-any-return]
        with torch.autocast(next(self.model.parameters()).device.type, self._autocast):
            output = self.model(data, **param)
        return tree_map(lambda x: x.float() if x.dtype == self._autocast else x, output)  # type: ignore[no-any-return]


class Agent:
    """The main agent with its optional ``target`` and ``teacher``.

    Calls go to the main agent; ``target_forward``, ``target_mode``, ``target_reset``, ``target_update`` and the same
    with ``teacher_`` go to the others.

    Args:
        model: the network.
        agent_type: class of the sub-agents.
    """

    _NAMES = ("main", "target", "teacher")

    def __init__(self, model: nn.Module, agent_type: type[BaseAgent] = BaseAgent) -> None:
        self._agent_type = agent_type
        self._agents: dict[str, BaseAgent] = {"main": agent_type(model)}
        self.forward = self._agents["main"].forward
        self.mode = self._agents["main"].mode
        self.reset = self._agents["main"].reset
        self.state_dict = self._agents["main"].state_dict
        self.load_state_dict = self._agents["main"].load_state_dict

    @property
    def model(self) -> nn.Module:
        """The main model."""
        return self._agents["main"].model

    @property
    def models(self) -> list[nn.Module]:
        """The models of all sub-agents."""
        return [agent.model for agent in self._agents.values()]

    def capture(self) -> None:
        """Lets the main agent's forward be played from a tape, see :meth:`BaseAgent.capture`."""
        self._agents["main"].capture()

    def add_model(self, name: str, model: nn.Module | None = None, **kwargs: Any) -> None:
        """Adds the sub-agent ``name`` (``'target'`` or ``'teacher'``); its model is a copy of the main one unless
        given, and the plugin of the same name is added to it with ``kwargs``.

        Raises:
            ConfigError: there is such a model, it has parameters of the main one (which are to be trained, while those
                of the others are not), or the plugin does not take these arguments.
        """
        self._known(name)
        if name in self._agents:
            raise ConfigError(f"agent has a '{name}' model already")
        if model is not None and {*map(id, model.parameters())} & {*map(id, self.model.parameters())}:
            raise ConfigError(f"the '{name}' model has parameters of the main one, whose training would stop; leave "
                              "model out for a copy, or give a copy.deepcopy of it")  # fmt: skip
        agent = self._agent_type(copy.deepcopy(self.model) if model is None else model)
        agent.add_plugin(name, **kwargs)
        self._agents[name] = agent

    def has_model(self, name: str) -> bool:
        """Whether the sub-agent ``name`` was added."""
        return name in self._agents

    def remove_model(self, name: str) -> None:
        """Removes the sub-agent ``name``."""
        self._known(name)
        if name == "main" or name not in self._agents:
            raise ConfigError(f"agent has no removable '{name}' model")
        del self._agents[name]

    def add_plugin(self, agent_name: str, plugin_name: str, **kwargs: Any) -> None:
        """Wraps the forward of ``agent_name`` with the registered plugin ``plugin_name``."""
        self._known(agent_name)
        if agent_name not in self._agents:
            raise ConfigError(f"agent has no '{agent_name}' model; call add_model('{agent_name}', ...) first")
        self._agents[agent_name].add_plugin(plugin_name, **kwargs)

    def autocast(self, dtype: torch.dtype | None) -> None:
        """Makes all models compute their products in ``dtype``, see :meth:`BaseAgent.autocast`."""
        for agent in self._agents.values():
            agent.autocast(dtype)

    def full_state(self, shared: nn.Module | None = None) -> dict[str, Any]:
        """Returns plugin states of all sub-agents, and the weights of every model but ``shared``, which is saved
        elsewhere."""
        return {
            name: {
                "plugin": agent.plugin_state(),
                **({} if agent.model is shared else {"model": agent.model.state_dict()}),
            }
            for name, agent in self._agents.items()
        }

    def load_full_state(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`full_state` gave."""
        for name, part in state.items():
            self._agents[name].load_plugin_state(part["plugin"])
            if "model" in part:
                self._agents[name].load_state_dict(part)

    def __getattr__(self, key: str) -> Any:
        name, _, method = key.partition("_")
        agents = self.__dict__.get("_agents", {})
        if name in agents and name != "main" and method:
            if hasattr(agents[name], method):
                return getattr(agents[name], method)
            for plugin in agents[name].plugins.values():
                if hasattr(plugin, method):
                    return getattr(plugin, method)
        raise AttributeError(f"agent has no '{key}' (sub-agents: {', '.join(agents)})")

    def _known(self, name: str) -> None:
        if name not in self._NAMES:
            raise ConfigError(
                f"unknown sub-agent '{name}'{did_you_mean(name, self._NAMES)} (known: main, target, teacher)"
            )


def _lane_index(data_id: Iterable[int] | Tensor | None) -> Tensor | None:
    return None if data_id is None else torch.as_tensor(data_id, dtype=torch.long)


def _check_arguments(name: str, plugin_class: type[AgentPlugin], kwargs: Mapping[str, Any]) -> None:
    signature = inspect.signature(plugin_class)
    try:
        signature.bind(**kwargs)
    except TypeError as e:
        known = list(signature.parameters)
        near = next((did_you_mean(key, known) for key in kwargs if key not in known), "")
        raise ConfigError(f"plugin '{name}': {e}{near} (it takes: {', '.join(known) or 'nothing'})") from e
