from types import SimpleNamespace

import pytest
import torch

from nervex.torch_utils import load_state, save_state
from nervex.utils.errors import ConfigError, NumericalError
from nervex.worker.learner.base_learner import BaseLearner
from nervex.worker.learner.hooks import LearnerHook, register_learner_hook

CFG = {"log_freq": 4, "save_freq": 100, "check_finite_freq": 1, "hook": {}}


class FakeLearnMode:
    """Its loss is the batch's ``x``; writes what happens into ``events``."""

    def __init__(self, outputs=lambda data: {}):
        self.events = []
        self._outputs = outputs

    def data_preprocess(self, batch):
        self.events.append("preprocess")
        return batch

    def forward(self, data):
        self.events.append("forward")
        return {"total_loss": torch.tensor(float(data["x"])), **self._outputs(data)}


class StatefulHook(LearnerHook):
    """Counts its calls."""

    def __init__(self, name, priority=20, position="after_iter", ext_args=None):
        super().__init__(name, priority, position, ext_args)
        self.calls = 0

    def __call__(self, learner):
        self.calls += 1
        learner.policy.events.append((self.name, learner.last_iter.val))

    def state_dict(self):
        return {"calls": self.calls}

    def load_state_dict(self, state):
        self.calls = state["calls"]


register_learner_hook("learner_test_stateful", StatefulHook)


def make_learner(outputs=lambda data: {}, **cfg):
    return BaseLearner({**CFG, **cfg}, FakeLearnMode(outputs))


def hooks_of(**positions):
    return {name: {"type": "learner_test_stateful", "position": p, "priority": n} for name, (p, n) in positions.items()}


def test_the_order_of_an_iteration_and_of_a_run():
    hook = hooks_of(
        start=("before_run", 20), late=("after_iter", 95), early=("after_iter", 1), before=("before_iter", 20),
        end=("after_run", 20),
    )  # fmt: skip
    learner = make_learner(hook=hook)
    batches = iter([{"x": 1.0}, {"x": 2.0}])
    learner.run(2, lambda: next(batches))
    iterations = [
        [("before", i - 1), "preprocess", "forward", ("early", i), ("late", i)] for i in (1, 2)
    ]  # fmt: skip
    assert learner.policy.events == [("start", 0), *iterations[0], *iterations[1], ("end", 2)]
    assert learner.get_current_info() == {"learner_step": 2}
    assert learner.last_batch == {"x": 2.0} and learner.name == "BaseLearner"


def test_hooks_may_be_added_as_functions_and_objects():
    learner = make_learner()
    learner.register_hook(lambda one: one.policy.events.append("function"))
    learner.register_hook(StatefulHook("object", priority=1))
    learner.train({"x": 1.0})
    assert learner.policy.events[2:] == [("object", 1), "function"]


def test_launch_runs_what_comes_before_a_run():
    learner = make_learner(hook=hooks_of(start=("before_run", 20)))
    learner.launch()
    assert learner.policy.events == [("start", 0)]


def test_averages_since_the_last_report():
    reported = []
    learner = make_learner(lambda data: {"cur_lr": 0.5, "vector": torch.zeros(3), "note": "text"})
    learner.report = reported.append
    for x in (1.0, 2.0, 3.0, 6.0, 10.0, 10.0, 10.0, 30.0, 99.0):
        assert learner.train({"x": x})["total_loss"] == x
    assert reported == [{"total_loss": 3.0, "cur_lr": 0.5}, {"total_loss": 15.0, "cur_lr": 0.5}]
    assert learner.take_averages() == {"total_loss": 99.0, "cur_lr": 0.5}
    assert learner.take_averages() == {}


def test_an_average_is_over_the_iterations_that_gave_the_number():
    learner = make_learner(lambda data: {"actor_loss": torch.tensor(data["x"])} if data["x"] % 2 else {}, log_freq=100)
    for x in (1.0, 2.0, 3.0, 4.0):
        learner.train({"x": x})
    assert learner.take_averages() == {"total_loss": 2.5, "actor_loss": 2.0}


@pytest.mark.filterwarnings("error")
def test_sums_hold_no_graph_and_no_tensor_of_the_policy():
    buffer = torch.zeros(())

    def outputs(data):
        return {"total_loss": (torch.ones((), requires_grad=True) * data["x"]), "reused": buffer.fill_(data["x"])}

    learner = make_learner(outputs, log_freq=100)
    for x in (1.0, 2.0, 6.0):
        learner.train({"x": x})
    assert not any(v.requires_grad for v in learner._sum.values() if isinstance(v, torch.Tensor))
    assert learner.take_averages() == {"total_loss": 3.0, "reused": 3.0}


def test_priorities_go_with_the_indices_of_their_batch():
    learner = make_learner(lambda data: {"priority": data["x"] * torch.ones(2)} if data["x"] > 0 else {})
    assert learner.priority_info is None
    index = torch.tensor([7, 8])
    output = learner.train({"x": 3.0, "index": index})
    assert "priority" not in output
    assert learner.priority_info["index"] is index and learner.priority_info["priority"].tolist() == [3.0, 3.0]
    learner.train({"x": 3.0})  # a batch without indices
    assert learner.priority_info is None
    learner.train({"x": -1.0, "index": index})  # a policy without priorities
    assert learner.priority_info is None


def test_indices_are_those_of_the_batch_that_came():
    """A policy may arrange its data as it likes."""
    learner = make_learner(lambda data: {"priority": torch.ones(2)})
    learner.policy.data_preprocess = lambda batch: {"x": batch["x"]}
    index = torch.tensor([7, 8])
    learner.train({"x": 3.0, "index": index})
    assert learner.priority_info["index"] is index


@pytest.mark.parametrize("bad", ["nan", "inf", "-inf"])
def test_a_loss_that_is_not_finite_stops_with_its_iteration_and_batch(bad):
    learner = make_learner(hook=hooks_of(after=("after_iter", 20)))
    learner.train({"x": 1.0})
    batch = {"x": bad}
    with pytest.raises(
        NumericalError,
        match=rf"total_loss is {bad} at learner iteration 2; lower policy.learn.learning_rate, clip gradients, or",
    ):
        learner.train(batch)
    assert learner.last_batch is batch
    assert learner.policy.events.count(("after", 2)) == 0  # no hook saved it as if it were sound


def test_the_loss_is_looked_at_every_so_many_iterations():
    learner = make_learner(check_finite_freq=3)
    learner.train({"x": "nan"})
    learner.train({"x": "nan"})
    with pytest.raises(NumericalError, match="iteration 3"):
        learner.train({"x": "nan"})


class Remote(torch.Tensor):
    """A tensor that says it is on a GPU, where a look at its value is a wait for the device, and counts the looks."""

    looks = 0

    @property
    def device(self):
        return torch.device("cuda")

    def detach(self):
        return self

    def clone(self):
        return self

    def item(self):
        Remote.looks += 1
        return super().item()


@pytest.mark.parametrize(("freq", "looks"), [(None, 0), (2, 2)])
def test_on_a_gpu_the_loss_is_looked_at_when_it_is_shown_or_saved(freq, looks):
    learner = make_learner(
        lambda data: {"total_loss": torch.tensor(data["x"]).as_subclass(Remote)}, check_finite_freq=freq, log_freq=10
    )
    Remote.looks = 0
    for _ in range(4):
        learner.train({"x": 1.0})
    assert Remote.looks == looks
    learner.check_numbers({})
    if freq is None:
        learner.train({"x": float("nan")})
        learner.train({"x": 1.0})  # the sum keeps what was wrong
        with pytest.raises(NumericalError, match="total_loss is nan at learner iteration 6"):
            learner.check_numbers({})
        with pytest.raises(NumericalError, match="total_loss is nan"):
            learner.take_averages()


def test_weights_that_are_not_finite_are_named():
    learner = make_learner()
    sound = {"a": torch.ones(2), "index": torch.tensor([1]), "empty": torch.zeros(0)}
    learner.check_numbers(sound)
    with pytest.raises(NumericalError, match=r"weight 'b' is not finite at learner iteration 0"):
        learner.check_numbers({**sound, "b": torch.tensor([1.0, float("-inf")])})
    bad = {name: torch.tensor([float("nan")]) for name in "bcd"}
    with pytest.raises(NumericalError, match=r"weight 'b' and 2 more is not finite"):
        learner.check_numbers({**sound, **bad})


def test_a_restored_learner_goes_on(tmp_path):
    learner = make_learner(
        lambda data: {"actor_loss": 2.0} if data["x"] == 1 else {}, hook=hooks_of(mine=("after_iter", 5))
    )
    for x in (1.0, 2.0, 6.0):
        learner.train({"x": x})
    save_state(tmp_path / "state", learner.state_dict())
    learner.train({"x": 50.0})  # does not change what was saved
    other = make_learner(hook=hooks_of(mine=("after_iter", 5)))
    other.train({"x": 1000.0})
    other.load_state_dict(load_state(tmp_path / "state")[0])
    assert other.get_current_info() == {"learner_step": 3}
    reported = []
    other.report = reported.append
    other.train({"x": 7.0})
    assert reported == [{"total_loss": 4.0, "actor_loss": 2.0}]
    assert [hook.calls for hook in other.hooks["after_iter"] if hook.name == "mine"] == [4]


def test_a_state_with_a_hook_that_is_gone_loads():
    state = make_learner(hook=hooks_of(mine=("after_iter", 5))).state_dict()
    make_learner().load_state_dict(state)


def test_saving():
    learner = make_learner(save_freq=2)
    with pytest.raises(ConfigError, match=r"this learner has no saver; set learner.saver to a function that saves a"):
        learner.save_checkpoint()
    learner.train({"x": 1.0})
    learner.train({"x": 1.0})  # alone in a notebook, the hook of save_freq has nobody to save
    saved = []
    learner.saver = lambda: saved.append(learner.last_iter.val)
    for _ in range(5):
        learner.train({"x": 1.0})
    assert saved == [4, 6]


def test_the_configuration_may_replace_the_hooks_of_the_learner():
    reported = []
    learner = make_learner(hook={"log_show": {"ext_args": {"freq": 1}}})
    learner.report = reported.append
    learner.train({"x": 1.0})
    assert reported == [{"total_loss": 1.0}]
    assert [hook.name for hook in learner.hooks["after_iter"]] == ["log_show", "save_ckpt"]


def test_a_batch_may_be_anything_that_the_policy_takes():
    learner = make_learner()
    learner.policy = SimpleNamespace(data_preprocess=len, forward=lambda n: {"total_loss": n})
    assert learner.train([1, 2, 3]) == {"total_loss": 3}
    assert learner.priority_info is None
