"""Names that a configuration file may use, and the classes behind them."""

import importlib
import logging
import sys
from collections.abc import Mapping
from typing import Any

from nervex.utils.errors import ConfigError, did_you_mean

_logger = logging.getLogger("nervex")


class Registry:
    """Name -> class, for one kind of thing (policy, env, hook, ...).

    Built-in entries are import strings (``'nervex.policy.dqn:DQNPolicy'``), resolved when first asked for. A user's
    registration replaces a built-in with one log line; two different user registrations of one name are an error.

    Args:
        kind: what is registered, for messages (``'policy'``).
        builtin: name -> ``'module:attribute'``.
    """

    def __init__(self, kind: str, builtin: Mapping[str, str] | None = None) -> None:
        self.kind = kind
        self._builtin = dict(builtin or {})
        self._entries: dict[str, Any] = {}

    def register(self, name: str, entry: Any) -> None:
        """Registers ``entry`` under ``name``.

        Raises:
            ConfigError: another user class holds this name already.
        """
        if name in self._builtin:
            if self._builtin[name] == f"{entry.__module__}:{entry.__qualname__}":
                return  # the built-in class itself, when its module is imported
            if name not in self._entries:
                _logger.info("%s '%s' of %s replaces the built-in one", self.kind, name, entry.__module__)
        held = self._entries.get(name)
        if held is not None and held is not entry and not self._same_source(held, entry):
            raise ConfigError(
                f"{self.kind} '{name}' is registered twice: by {held.__module__}.{held.__qualname__} and by "
                f"{entry.__module__}.{entry.__qualname__}; give one of them another name"
            )
        self._entries[name] = entry

    def get(self, name: str) -> Any:
        """Returns the class registered under ``name``.

        Raises:
            ConfigError: no such name; the message lists the known ones.
        """
        if name in self._entries:
            return self._entries[name]
        if name in self._builtin:
            module, attribute = self._builtin[name].split(":")
            return getattr(importlib.import_module(module), attribute)
        raise ConfigError(
            f"unknown {self.kind} '{name}'{did_you_mean(name, self.names())} (known: {', '.join(self.names())})"
        )

    def origin(self, name: str) -> str:
        """Returns where the class behind ``name`` is defined, as ``module:attribute``."""
        if name in self._entries:
            return f"{self._entries[name].__module__}:{self._entries[name].__qualname__}"
        return self._builtin[name]

    def names(self) -> list[str]:
        """Returns every registered name, sorted."""
        return sorted({*self._entries, *self._builtin})

    def __contains__(self, name: str) -> bool:
        return name in self._entries or name in self._builtin

    def _same_source(self, held: Any, entry: Any) -> bool:
        """A file that is loaded again (a notebook cell run twice) may register its class again."""
        return (_source(held), held.__qualname__) == (_source(entry), entry.__qualname__)


def _source(entry: Any) -> str:
    """Returns the file that defines ``entry``; its module's name when it has none (a notebook)."""
    return getattr(sys.modules.get(entry.__module__), "__file__", None) or str(entry.__module__)
