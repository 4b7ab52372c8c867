"""Collection and evaluation."""

from nervex.utils.lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "BaseSerialActor": "nervex.worker.actor.serial_actor",
        "BaseSerialEvaluator": "nervex.worker.actor.serial_evaluator",
        "env_manager": "nervex.worker.actor.env_manager",
    },
)
