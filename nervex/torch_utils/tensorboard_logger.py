"""Variables of several kinds in TensorBoard event files, and the pair of a text logger and such a one."""

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from nervex.utils.errors import ConfigError, did_you_mean
from nervex.utils.log_helper import TextLogger

_ADD: dict[str, Callable[..., None]] = {
    "scalar": SummaryWriter.add_scalar,
    "scalars": SummaryWriter.add_scalars,
    "text": SummaryWriter.add_text,
    "histogram": SummaryWriter.add_histogram,
    "image": SummaryWriter.add_image,
}


class TensorBoardLogger:
    """Writes registered variables; a name that was not registered is an error, so that no typo becomes a new curve.

    Args:
        path: parent of the folder ``<name>_tb_logger``.
        name: begins the folder's name.
    """

    def __init__(self, path: str | Path, name: str = "default") -> None:
        self.log_dir = Path(path) / f"{name}_tb_logger"
        self._writer = SummaryWriter(str(self.log_dir))
        self._types: dict[str, str] = {}

    def register_var(self, name: str, var_type: str = "scalar") -> None:
        """Makes a variable known.

        Args:
            name: the tag in TensorBoard.
            var_type: ``'scalar'`` (a number), ``'scalars'`` (a dict of numbers), ``'text'``, ``'histogram'`` (an array)
                or ``'image'`` ([3, H, W] in [0, 1]).

        Raises:
            ConfigError: the type is another one, or the name is registered already.
        """
        if var_type not in _ADD:
            known = ", ".join(_ADD)
            raise ConfigError(f"unknown type '{var_type}' of '{name}'{did_you_mean(var_type, _ADD)} (known: {known})")
        if name in self._types:
            raise ConfigError(f"'{name}' is registered already, as {self._types[name]}; register each variable once")
        self._types[name] = var_type

    def print_vars(self, variables: Mapping[str, Any], cur_step: int, viz_type: str | None = None) -> None:
        """Writes the values of one step.

        Args:
            variables: name -> value.
            cur_step: the step that they are of.
            viz_type: the type that all of them must have; None: any.

        Raises:
            ConfigError: a name is not registered, or has another type.
        """
        self.add_val_list([(name, value, cur_step) for name, value in variables.items()], viz_type)

    def add_val_list(self, val_list: Iterable[tuple[str, Any, int]], viz_type: str | None = None) -> None:
        """Writes values of any steps; all names are looked at before the first is written.

        Args:
            val_list: ``(name, value, step)`` each.
            viz_type: see :meth:`print_vars`.

        Raises:
            ConfigError: a name is not registered, or has another type.
        """
        values = list(val_list)
        for name, _, _ in values:
            if name not in self._types:
                raise ConfigError(
                    f"'{name}' is not registered{did_you_mean(name, self._types)}; call register_var first"
                )
            if viz_type not in (None, self._types[name]):
                raise ConfigError(f"'{name}' is registered as {self._types[name]}; it cannot be written as {viz_type}")
        for name, value, step in values:
            _ADD[self._types[name]](self._writer, name, value, step)

    def flush(self) -> None:
        """Writes out what waits in memory."""
        self._writer.flush()

    def close(self) -> None:
        """Flushes and closes the event file; may be called twice."""
        self._writer.close()


def build_logger(
    path: str | Path, name: str = "default", need_tb: bool = True, level: int = logging.INFO
) -> tuple[TextLogger, TensorBoardLogger | None]:
    """Returns a text logger and, where it is wanted, a TensorBoard logger, in one folder.

    Args:
        path: folder of both, made with its parents.
        name: begins the names of file and folder.
        need_tb: make the TensorBoard logger; else None is returned for it.
        level: the least level of the text log.
    """
    return TextLogger(path, name, level), TensorBoardLogger(path, name) if need_tb else None
