"""What runs: learner, actor, evaluator, command, env managers and monitors."""

from nervex.utils.lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "BaseLearner": "nervex.worker.learner.base_learner",
        "LearnerHook": "nervex.worker.learner.hooks",
        "register_learner_hook": "nervex.worker.learner.hooks",
        "build_learner_hook_by_cfg": "nervex.worker.learner.hooks",
        "add_learner_hook": "nervex.worker.learner.hooks",
        "merge_hooks": "nervex.worker.learner.hooks",
        "register_learner": "nervex.worker.learner.registry",
        "create_learner": "nervex.worker.learner.registry",
        "BaseSerialActor": "nervex.worker.actor.serial_actor",
        "BaseSerialEvaluator": "nervex.worker.actor.serial_evaluator",
        "BaseSerialCommand": "nervex.worker.command.serial_command",
        "BaseEnvManager": "nervex.worker.actor.env_manager",
        "SubprocessEnvManager": "nervex.worker.actor.env_manager",
        "SyncSubprocessEnvManager": "nervex.worker.actor.env_manager",
        "MetricSink": "nervex.worker.monitor.sink",
    },
)
