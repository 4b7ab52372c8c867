"""TensorBoard event files."""

from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from nervex.worker.monitor.sink import MetricRow, MetricSink


class TensorBoardSink(MetricSink):
    """Writes each value as the scalar ``kind/key`` at the row's env step.

    Event files cannot be cut. After ``rewind`` a new one begins with the mark that makes TensorBoard hide everything
    after the position.

    Args:
        log_dir: folder of the event files; made with the first row.
    """

    name = "tensorboard"

    def __init__(self, log_dir: Path | str) -> None:
        self.log_dir = Path(log_dir)
        self._writer: SummaryWriter | None = None
        self._purge_step: int | None = None
        self._last_step = -1

    def write(self, row: MetricRow) -> None:
        """Writes the values of one row."""
        if self._writer is None:
            self._writer = SummaryWriter(str(self.log_dir), purge_step=self._purge_step)
            self._purge_step = None
        for key, value in row.values.items():
            self._writer.add_scalar(f"{row.kind}/{key}", value, row.env_step)
        self._last_step = max(self._last_step, row.env_step)

    def flush(self) -> None:
        """Writes out the events that wait in memory."""
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Flushes and closes the event file; a later row begins a new one."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def position(self) -> int:
        """Returns the largest env step written, -1 before the first row."""
        self.flush()
        return self._last_step

    def rewind(self, position: int) -> None:
        """Hides what was written after env step ``position``."""
        self.close()
        self._purge_step = position + 1
        self._last_step = position
