"""nerveX: deep reinforcement learning from a YAML file to a trained agent."""

from nervex.utils.lazy import lazy_exports

__version__ = "0.1.0"

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "serial_pipeline": "nervex.entry.serial_entry",
        "load": "nervex.entry.serve",
        "RunResult": "nervex.entry.run_result",
    },
)
