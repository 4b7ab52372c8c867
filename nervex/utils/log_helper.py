"""Text logs, tables of numbers, and distributions over time as pictures."""

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from nervex.utils.errors import SpecError
from nervex.utils.yaml_reader import to_plain

_FORMAT = "[%(asctime)s][%(levelname)s] %(message)s"


class TextLogger:
    """Writes lines and tables to a file and to the standard error stream.

    Two loggers share nothing, whatever their names are.

    Args:
        path: folder of the file ``<name>_logger.txt``, which is appended to; made with its parents.
        name: begins the file's name.
        level: the least level that is written (``logging.INFO``).

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, path: str | Path, name: str = "default", level: int = logging.INFO) -> None:
        self.file = Path(path) / f"{name}_logger.txt"
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self._logger = logging.Logger(name, level)  # of its own, not one of a name that others use too
        for handler in (logging.FileHandler(self.file, encoding="utf-8"), logging.StreamHandler(sys.stderr)):
            handler.setFormatter(logging.Formatter(_FORMAT))
            self._logger.addHandler(handler)

    def info(self, message: str) -> None:
        """Writes a line."""
        self._logger.info("%s", message)

    def error(self, message: str) -> None:
        """Writes a line as an error."""
        self._logger.error("%s", message)

    def print_vars(self, variables: Mapping[str, Any], level: int = logging.INFO) -> None:
        """Writes names and values as a table of two columns; floats with six significant digits."""
        self._logger.log(level, "\n%s", text_table(variables))

    def close(self) -> None:
        """Closes the file; may be called twice."""
        for handler in self._logger.handlers:
            handler.close()
        self._logger.handlers.clear()


def text_table(variables: Mapping[str, Any]) -> str:
    """Returns one line for each entry, names and values in columns; floats with six significant digits.

    Args:
        variables: name -> number or anything that ``str`` can show.
    """
    cells = [(str(k), f"{v:.6g}" if isinstance(v, float | np.floating) else str(v)) for k, v in variables.items()]
    width = max((len(name) for name, _ in cells), default=0)
    return "\n".join(f"{name:<{width}} | {value}" for name, value in cells)


def pretty_print(result: Mapping[str, Any], direct_print: bool = True) -> str:
    """Returns nested plain data as text, one value a line, keys in their order; entries that are None are left out.

    Args:
        result: nested mapping of numbers, strings, booleans, None and lists.
        direct_print: print the text too.

    Raises:
        ConfigError: a key or a value is of another kind.
    """
    kept = {key: value for key, value in to_plain(result, "the result").items() if value is not None}
    text = yaml.safe_dump(kept, sort_keys=False, default_flow_style=False, allow_unicode=True)
    if direct_print:
        print(text)
    return text


class DistributionTimeImage:
    """A picture of a distribution that changes: time to the right, the bins upwards, red for much and blue for little.

    Args:
        maxlen: time steps that the picture shows; older ones leave it at the left.
        val_range: ``(low, high)`` of the colors; None: the least and the largest value in the picture.

    Raises:
        SpecError: ``maxlen`` is less than 1, or the range is empty.
    """

    def __init__(self, maxlen: int = 600, val_range: tuple[float, float] | None = None) -> None:
        if maxlen < 1 or (val_range is not None and not val_range[0] < val_range[1]):
            raise SpecError(
                f"DistributionTimeImage got maxlen={maxlen}, val_range={val_range}; expected at least one step, and "
                "low < high"
            )
        self._maxlen = maxlen
        self._range = val_range
        self._columns: list[np.ndarray] = []

    def add_one_time_step(self, data: np.ndarray) -> None:
        """Adds the distribution of one time step.

        Args:
            data: ``[H]``, finite; H is that of the first step.

        Raises:
            SpecError: it has another shape, or a value is not finite.
        """
        column = np.asarray(data, dtype=np.float64)
        height = len(self._columns[0]) if self._columns else column.size
        if column.ndim != 1 or column.size != height or not height or not np.isfinite(column).all():
            raise SpecError(
                f"DistributionTimeImage got {column.tolist()!r:.60} of shape {list(column.shape)}; expected "
                f"{height or 'some'} finite numbers"
            )
        self._columns = [*self._columns[-self._maxlen + 1 :], column] if self._maxlen > 1 else [column]

    def get_image(self) -> np.ndarray:
        """Returns the picture, float32 ``[3, H, maxlen]`` in [0, 1]: black where there is no step yet, on the right.

        Raises:
            SpecError: there is no step.
        """
        if not self._columns:
            raise SpecError("DistributionTimeImage has no time step to show; call add_one_time_step first")
        values = np.stack(self._columns, axis=1)[::-1]  # [H, steps], the first bin at the bottom
        low, high = self._range or (values.min(), values.max())
        share = ((values - low) / ((high - low) or 1.0)).clip(0, 1)
        image = np.zeros((3, len(values), self._maxlen), np.float32)
        image[:, :, : values.shape[1]] = [share, np.zeros_like(share), 1 - share]
        return image
