"""Learners by name."""

from collections.abc import Mapping
from typing import Any

from nervex.utils.registry import Registry
from nervex.worker.learner.base_learner import BaseLearner

LEARNER_REGISTRY = Registry("learner", {"base": "nervex.worker.learner.base_learner:BaseLearner"})


def register_learner(name: str, learner_class: type[BaseLearner]) -> None:
    """Makes ``learner_class`` available to configurations as ``learner.learner_type: name``."""
    LEARNER_REGISTRY.register(name, learner_class)


def create_learner(cfg: Mapping[str, Any], policy: Any = None) -> BaseLearner:
    """Returns the learner that ``learner.learner_type`` names, ``BaseLearner`` unless it is given.

    Args:
        cfg: a whole configuration; a learner of a policy gets its section ``learner``, one with ``_setup_agent`` all.
        policy: a policy's ``learn_mode``; may be set later.

    Raises:
        ConfigError: no such learner, or the learner refuses its configuration.
    """
    section = cfg.get("learner") or {}
    learner_class = LEARNER_REGISTRY.get(section.get("learner_type", "base"))
    learner: BaseLearner = learner_class(cfg if learner_class.has_graph() else section, policy)
    return learner
