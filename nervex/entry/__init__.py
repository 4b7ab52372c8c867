"""Entry points: pipelines, and what the command line calls."""

from nervex.utils.lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "serial_pipeline": "nervex.entry.serial_entry",
        "RunResult": "nervex.entry.run_result",
        "SingleMachineRunner": "nervex.entry.base_single_machine",
        "load": "nervex.entry.serve",
        "evaluate_run": "nervex.entry.eval_entry",
        "verify_resume": "nervex.entry.verify_entry",
        "inspect_path": "nervex.entry.inspect_entry",
        "replay_run": "nervex.entry.replay_entry",
        "check_config": "nervex.entry.check_entry",
    },
)
