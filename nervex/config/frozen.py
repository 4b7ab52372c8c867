"""The resolved configuration: attribute access, read-only, saying clearly which key is not there."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, NoReturn

from nervex.utils.errors import ConfigError, MissingKeyError, did_you_mean
from nervex.utils.yaml_reader import KeyPath, dotted


class FrozenConfig(dict[str, Any]):
    """A nested dict whose keys are attributes too and that cannot be changed.

    ``cfg.learn.algo.nstep`` and ``Model(**cfg.model)`` both work. A key that is also the name of a dict method
    (``items``, ``get``, ...) is reached by ``cfg['items']`` only.

    Args:
        data: any nested mapping; it is copied, mappings in lists included.
        path: key path of ``data`` in the whole configuration, for messages.
    """

    __slots__ = ("_frozen_path",)
    _frozen_path: KeyPath

    def __init__(self, data: Mapping[str, Any], path: KeyPath = ()) -> None:
        object.__setattr__(self, "_frozen_path", tuple(path))
        super().__init__({key: _freeze(value, (*path, key)) for key, value in data.items()})

    def to_dict(self) -> dict[str, Any]:
        """Returns a deep copy made of plain dicts, which may be changed."""
        return {key: _thaw(value) for key, value in self.items()}

    def copy(self) -> dict[str, Any]:
        """Returns ``to_dict()``: who copies a configuration wants to change it."""
        return self.to_dict()

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as e:
            raise MissingKeyError(e.args[0]) from None

    def __missing__(self, key: Any) -> NoReturn:
        raise KeyError(f"no key '{dotted((*self._frozen_path, key))}'{did_you_mean(key, self)}")

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self]

    def _refuse(self, key: Any = None) -> NoReturn:
        path = dotted(self._frozen_path if key is None else (*self._frozen_path, key))
        raise ConfigError(
            f"cannot change '{path}': the resolved configuration is read-only; "
            "set it in the YAML file or on the command line, or change a copy made by to_dict()"
        )

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        self._refuse(name)

    def __delattr__(self, name: str) -> NoReturn:
        self._refuse(name)

    def __setitem__(self, key: str, value: Any) -> NoReturn:
        self._refuse(key)

    def __delitem__(self, key: str) -> NoReturn:
        self._refuse(key)

    def pop(self, key: str, *default: Any) -> NoReturn:
        """Raises ConfigError."""
        self._refuse(key)

    def setdefault(self, key: str, default: Any = None) -> NoReturn:
        """Raises ConfigError."""
        self._refuse(key)

    def update(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raises ConfigError."""
        self._refuse()

    def popitem(self) -> NoReturn:
        """Raises ConfigError."""
        self._refuse()

    def clear(self) -> NoReturn:
        """Raises ConfigError."""
        self._refuse()

    def __ior__(self, other: Any) -> NoReturn:  # type: ignore[misc]
        self._refuse()

    def __copy__(self) -> "FrozenConfig":
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "FrozenConfig":
        return FrozenConfig(self, self._frozen_path)

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenConfig, (self.to_dict(), self._frozen_path)


def _freeze(value: Any, path: KeyPath) -> Any:
    if isinstance(value, Mapping):
        return FrozenConfig(value, path)
    if isinstance(value, list | tuple):
        return type(value)(_freeze(item, (*path, i)) for i, item in enumerate(value))
    return deepcopy(value)


def _thaw(value: Any) -> Any:
    if isinstance(value, FrozenConfig):
        return value.to_dict()
    if isinstance(value, list | tuple):
        return type(value)(_thaw(item) for item in value)
    return deepcopy(value)
