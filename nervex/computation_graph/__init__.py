"""From a batch and an agent to a loss."""

from nervex.utils.lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(__name__, {"BaseCompGraph": "nervex.computation_graph.base_comp_graph"})
