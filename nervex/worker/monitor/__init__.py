"""How a run shows itself: metric sinks, progress display, run folder."""

from nervex.utils.lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Budgets": "nervex.worker.monitor.progress_view",
        "JsonlSink": "nervex.worker.monitor.jsonl_sink",
        "MetricLog": "nervex.worker.monitor.sink",
        "MetricRow": "nervex.worker.monitor.sink",
        "MetricSink": "nervex.worker.monitor.sink",
        "ProgressSink": "nervex.worker.monitor.progress",
        "RunFolder": "nervex.worker.monitor.run_folder",
        "TensorBoardSink": "nervex.worker.monitor.tensorboard_sink",
        "read_metrics": "nervex.worker.monitor.jsonl_sink",
        "without_time": "nervex.worker.monitor.sink",
    },
)
