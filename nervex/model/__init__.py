"""Networks."""

from nervex.utils.lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "DiscreteNet": "nervex.model.discrete_net",
        "FCDiscreteNet": "nervex.model.discrete_net",
        "ConvDiscreteNet": "nervex.model.discrete_net",
        "FCDQN": "nervex.model.discrete_net",
        "ConvDQN": "nervex.model.discrete_net",
        "FCEncoder": "nervex.model.encoder",
        "ConvEncoder": "nervex.model.encoder",
        "DuelingHead": "nervex.model.head",
        "DiscreteHead": "nervex.model.head",
    },
)
