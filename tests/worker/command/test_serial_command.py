from types import SimpleNamespace

from nervex.worker.command.serial_command import BaseSerialCommand


def make(get_setting_collect):
    """A command between a learner at iteration 12 and an actor at env step 340."""
    received = []
    actor = SimpleNamespace(env_step=340, policy_version=0, policy=SimpleNamespace(set_setting=received.append))
    learner = SimpleNamespace(get_current_info=lambda: {"learner_step": 12})
    policy = SimpleNamespace(get_setting_collect=get_setting_collect)
    return BaseSerialCommand({}, learner, actor, policy=policy), actor, received


def test_settings_follow_the_progress_of_learner_and_actor():
    asked = []
    command, actor, received = make(lambda info: asked.append(info) or {"eps": info["learner_step"] / 100})
    assert command.metrics() == {}
    command.step()
    assert asked == [{"learner_step": 12, "env_step": 340}]
    assert received == [{"eps": 0.12}]
    assert actor.policy_version == 12
    assert command.metrics() == {"eps": 0.12}


def test_only_numbers_are_shown():
    command, _, received = make(lambda info: {"eps": 1, "mode": "greedy", "noise": None})
    command.step()
    assert received == [{"eps": 1, "mode": "greedy", "noise": None}]
    assert command.metrics() == {"eps": 1.0} and isinstance(command.metrics()["eps"], float)


def test_the_policy_may_come_later():
    command, actor, received = make(None)
    command.policy = SimpleNamespace(get_setting_collect=lambda info: {})
    command.step()
    assert received == [{}] and actor.policy_version == 12
