"""What the learner tells the actor."""

from nervex.utils.lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(__name__, {"BaseSerialCommand": "nervex.worker.command.serial_command"})
