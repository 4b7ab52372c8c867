"""The errors that a user of nerveX can meet, and the near names that they suggest."""

import difflib
from collections.abc import Iterable


class NerveXError(Exception):
    """Root of the errors that are the user's to mend; the command line prints them without a traceback."""


class ConfigError(NerveXError, ValueError):
    """A configuration value, key or file is wrong."""


class DatasetError(ConfigError):
    """A data set is missing, damaged, foreign, ragged, or does not fit the env or the policy."""


class MissingKeyError(ConfigError, AttributeError):
    """Code asks for a key that the configuration lacks."""


class SpecError(NerveXError, ValueError):
    """Data does not have the shape, dtype or range that its specification declares."""


class EnvFault(NerveXError, RuntimeError):
    """An environment raised, died, hung or sent data that its ``info()`` does not declare.

    Attributes:
        env_id: index of the environment in its manager.
        step: env step of the episode at which it happened (0 is the reset).
    """

    def __init__(self, message: str, env_id: int = -1, step: int = -1) -> None:
        super().__init__(message)
        self.env_id = env_id
        self.step = step


class NumericalError(NerveXError, ArithmeticError):
    """A loss, gradient, weight or action is not finite."""


class StorageError(NerveXError, OSError):
    """A file or object is missing, damaged or foreign, or its storage is away, too slow or refuses."""


class DistributedError(NerveXError, RuntimeError):
    """Processes that train together do not find each other, or one of them is gone."""


class LockTimeoutError(NerveXError, TimeoutError):
    """A lock was not free within its limit."""


class CheckpointError(NerveXError, RuntimeError):
    """A checkpoint is missing, damaged, foreign, or could not be written."""


class RunFolderError(NerveXError, RuntimeError):
    """A run folder exists already, is missing, or belongs to another configuration."""


class MissingExtraError(NerveXError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""


def did_you_mean(word: str, options: Iterable[str], likeness: float = 0.6) -> str:
    """Returns ``"; did you mean 'x'?"`` for the option nearest to ``word``, or an empty string when none is at least
    as like it as ``likeness`` (0 to 1)."""
    near = difflib.get_close_matches(str(word), [str(o) for o in options], n=1, cutoff=likeness)
    return f"; did you mean '{near[0]}'?" if near else ""
