"""Parts of an env: an element declares one observation, action or reward; its runner reads it from the simulator."""

from abc import ABC, abstractmethod
from typing import Any

from nervex.envs.base_env import EnvElementInfo
from nervex.utils.errors import SpecError

_DECLARED = ("_shape", "_value", "_to_agent_processor", "_from_agent_processor")


class IEnvElement(ABC):
    """What an element and its runner have in common."""

    @abstractmethod
    def __repr__(self) -> str: ...

    @property
    @abstractmethod
    def info(self) -> EnvElementInfo:
        """Shape, value range and processors."""


class EnvElement(IEnvElement):
    """The declaration of one observation, action or reward; it has no state.

    A subclass sets in ``_init`` the four attributes that ``info`` is made of: ``_shape``, ``_value`` (a dict with
    ``min``, ``max``, ``dtype``), ``_to_agent_processor`` and ``_from_agent_processor`` (functions, or None). Nothing
    can be set afterwards: what changes from step to step belongs to an ``EnvElementRunner``.

    Every instance stands for itself: two envs of two configurations have elements of two shapes.

    Args:
        args, kwargs: those of ``_init``.

    Raises:
        SpecError: ``_init`` leaves one of the four unset.
    """

    info_template = EnvElementInfo

    _shape: Any
    _value: dict[str, Any]
    _to_agent_processor: Any
    _from_agent_processor: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._init(*args, **kwargs)
        self._check()
        self._is_complete = True

    @abstractmethod
    def _init(self, *args: Any, **kwargs: Any) -> None:
        """Sets the four attributes, and what the processors need."""

    @abstractmethod
    def _details(self) -> str:
        """Returns what ``repr`` is to say of the element."""

    def _check(self) -> None:
        missing = [name for name in _DECLARED if not hasattr(self, name)]
        if missing:
            raise SpecError(f"element {type(self).__name__} sets no {', '.join(missing)}; set them in its _init")

    def __setattr__(self, name: str, value: Any) -> None:
        if "_is_complete" in self.__dict__:
            raise SpecError(
                f"element {type(self).__name__} is complete, {name} cannot be set; keep what changes in its runner"
            )
        super().__setattr__(name, value)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._details()})"

    @property
    def info(self) -> EnvElementInfo:
        """The declaration, as ``BaseEnv.info()`` hands it on."""
        return self.info_template(
            shape=self._shape,
            value=self._value,
            to_agent_processor=self._to_agent_processor,
            from_agent_processor=self._from_agent_processor,
        )


class EnvElementRunner(IEnvElement):
    """Reads an element's data from the simulator, and keeps what that needs from step to step.

    All knowledge of the simulator's insides sits in ``get``; the env itself keeps only what its elements share.

    Args:
        args, kwargs: those of ``_init``; by default the element.

    Raises:
        SpecError: ``_init`` sets no element as ``_core``.
    """

    _core: EnvElement

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._init(*args, **kwargs)
        core = getattr(self, "_core", None)
        if not isinstance(core, EnvElement):
            raise SpecError(
                f"runner {type(self).__name__} has the core {core!r}; give it an EnvElement, or set one as self._core "
                "in its _init"
            )

    def _init(self, core: EnvElement) -> None:
        """Sets ``_core``; a subclass may take its own arguments and build the element itself."""
        self._core = core

    @abstractmethod
    def get(self, engine: Any) -> Any:
        """Returns the element's data of this step.

        Args:
            engine: the env, or its simulator, as the env hands it over.
        """

    @abstractmethod
    def reset(self) -> None:
        """Forgets the episode."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._core!r})"

    @property
    def info(self) -> EnvElementInfo:
        """That of the element."""
        return self._core.info
