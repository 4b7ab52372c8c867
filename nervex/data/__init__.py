"""Columns, replay and data loading."""

from nervex.utils.lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "PrioritizedBuffer": "nervex.data.prioritized_buffer",
        "Replay": "nervex.data.replay",
        "ReplayConfig": "nervex.data.replay",
        "NStepWindow": "nervex.data.window",
        "SequenceWindow": "nervex.data.window",
        "RolloutBuffer": "nervex.data.rollout_buffer",
        "AsyncDataLoader": "nervex.data.loader",
        "MemoryPlan": "nervex.data.memory",
        "ItemWindow": "nervex.data.window",
        "SumTree": "nervex.data.sum_tree",
        "to_plain": "nervex.data.columns",
    },
)
