from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nervex.utils.errors import ConfigError
from nervex.worker.learner.hooks import (
    POSITIONS,
    FunctionHook,
    LearnerHook,
    LogReduceHook,
    LogShowHook,
    SaveCkptHook,
    add_learner_hook,
    build_learner_hook_by_cfg,
    merge_hooks,
    register_learner_hook,
)


class NoteHook(LearnerHook):
    """Writes its name into the learner."""

    def __call__(self, learner):
        learner.notes.append(self.name)


register_learner_hook("hooks_test_note", NoteHook)


def learner_at(iteration, **attributes):
    return SimpleNamespace(last_iter=SimpleNamespace(val=iteration), notes=[], **attributes)


@given(st.lists(st.tuples(st.sampled_from(POSITIONS), st.integers(-3, 3)), max_size=12))
def test_lower_priority_numbers_first_and_equals_in_order_of_registration(hooks):
    by_position = build_learner_hook_by_cfg({})
    for i, (position, priority) in enumerate(hooks):
        add_learner_hook(by_position, NoteHook(str(i), priority, position))
    assert tuple(by_position) == POSITIONS
    for position, held in by_position.items():
        expected = sorted((p, i) for i, (where, p) in enumerate(hooks) if where == position)
        assert [(h.priority, int(h.name)) for h in held] == expected


def test_hooks_from_a_configuration():
    hooks = build_learner_hook_by_cfg(
        {
            "second": {"type": "hooks_test_note", "priority": 30, "position": "before_run"},
            "first": {"name": "named", "type": "hooks_test_note", "position": "before_run", "ext_args": {"a": 1}},
            "hooks_test_note": {"position": "after_run"},  # the key is the type, too
        }
    )
    assert [(h.name, h.priority) for h in hooks["before_run"]] == [("named", 20), ("second", 30)]
    assert hooks["before_run"][0].ext_args == {"a": 1}
    assert [h.name for h in hooks["after_run"]] == ["hooks_test_note"]
    assert hooks["after_iter"] == hooks["before_iter"] == []


def test_functions_are_hooks_after_each_iteration():
    hooks = build_learner_hook_by_cfg({})

    def note_it(learner):
        learner.notes.append("called")

    add_learner_hook(hooks, note_it)
    (hook,) = hooks["after_iter"]
    assert isinstance(hook, FunctionHook) and (hook.name, hook.priority) == ("note_it", 20)
    learner = learner_at(1)
    hook(learner)
    assert learner.notes == ["called"]


def test_averages_are_reported_every_freq_iterations():
    reported = []
    hook = LogShowHook(ext_args={"freq": 3})
    for i in range(1, 8):
        hook(learner_at(i, take_averages=lambda i=i: {"loss": i}, report=reported.append))
    assert reported == [{"loss": 3}, {"loss": 6}]
    hook(learner_at(9, take_averages=None, report=None))  # nobody listens: the sums go on


def test_averages_are_reduced_every_freq_iterations():
    reduced = []
    hook = LogReduceHook(ext_args={"freq": 2})
    hooks = {"after_iter": [hook, LogShowHook()]}
    for i in range(1, 6):
        hook(learner_at(i, hooks=hooks, reduce_averages=lambda i=i: reduced.append(i)))
    assert reduced == [2, 4]


def test_what_has_been_shown_can_not_be_reduced():
    hooks = build_learner_hook_by_cfg({"log_show": {"priority": 10}, "log_reduce": {}})
    with pytest.raises(ConfigError, match=r"hook 'log_reduce' has priority 20 and 'log_show', .*, 10; give it a lower"):
        hooks["after_iter"][1](learner_at(1, hooks=hooks))


def test_hooks_of_two_places_in_one_order():
    note = {"type": "hooks_test_note"}
    first = build_learner_hook_by_cfg(
        {"a": {**note, "priority": 30}, "b": note, "c": {**note, "position": "after_run"}}
    )
    second = build_learner_hook_by_cfg({"d": note, "e": {**note, "priority": 10}, "f": {**note, "priority": 30}})
    merged = merge_hooks(first, second)
    assert tuple(merged) == POSITIONS
    assert [[h.name for h in held] for held in merged.values()] == [[], ["c"], [], ["e", "b", "d", "a", "f"]]
    assert [h.name for h in first["after_iter"]] == ["b", "a"]  # left as they are
    with pytest.raises(ConfigError, match="two learner hooks are named 'b'"):
        merge_hooks(first, build_learner_hook_by_cfg({"b": {**note, "position": "before_run"}}))


@pytest.mark.parametrize(
    ("position", "saves"), [("after_iter", [4, 8]), ("after_run", [1, 2, 3, 4, 5, 6, 7, 8, 9])]
)  # fmt: skip
def test_checkpoints_every_freq_iterations_or_after_the_run(position, saves):
    saved = []
    hook = SaveCkptHook(position=position, ext_args={"freq": 4})
    for i in range(1, 10):
        hook(learner_at(i, saver=True, save_checkpoint=lambda i=i: saved.append(i)))
    assert saved == saves


def test_a_learner_without_saver_saves_nothing():
    SaveCkptHook(ext_args={"freq": 1})(learner_at(1, saver=None))


def test_unknown_position_and_type():
    with pytest.raises(
        ConfigError, match=r"hook 'mine': unknown position 'after_itr'; did you mean 'after_iter'\? \(known: before_run"
    ):
        NoteHook("mine", position="after_itr")
    with pytest.raises(ConfigError, match=r"unknown learner hook 'log_shw'; did you mean 'log_show'\?"):
        build_learner_hook_by_cfg({"mine": {"type": "log_shw"}})


def test_a_hook_must_be_callable():
    with pytest.raises(TypeError, match="abstract"):
        LearnerHook("mine")


def test_arguments_of_a_hook_are_its_own():
    shared = {"freq": 2}
    hook = NoteHook("mine", ext_args=shared)
    shared["freq"] = 3
    assert hook.ext_args == {"freq": 2} and hook.state_dict() == {}
