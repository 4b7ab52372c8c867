"""Training iterations and what happens around them."""

from nervex.utils.lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "BaseLearner": "nervex.worker.learner.base_learner",
        "LearnerConfig": "nervex.worker.learner.base_learner",
        "LearnerHook": "nervex.worker.learner.hooks",
        "register_learner_hook": "nervex.worker.learner.hooks",
        "build_learner_hook_by_cfg": "nervex.worker.learner.hooks",
        "add_learner_hook": "nervex.worker.learner.hooks",
        "merge_hooks": "nervex.worker.learner.hooks",
        "register_learner": "nervex.worker.learner.registry",
        "create_learner": "nervex.worker.learner.registry",
    },
)
