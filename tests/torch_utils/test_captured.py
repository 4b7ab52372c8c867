"""Tapes of kernels: what is played, what is recorded again, and what is never played."""

import numpy as np
import pytest
import torch
from torch import nn

from nervex.torch_utils.captured import CapturedFunction
from nervex.torch_utils.kernel_tape import Recorder
from nervex.torch_utils.optimizer import Adam, RMSprop

ONCE = 4  # calls of an update until it is played: as it is, recorded, proven with two learning rates
AGAIN = 3  # where it has to be recorded again


class Task:
    """A network, an optimizer and an update of them; ``calls`` counts how often its Python ran."""

    def __init__(self, make=Adam, **options):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
        self.optimizer = make(self.model.parameters(), **options)
        self.scale = torch.ones(())
        self.factor = 1.0
        self.options = {"factor": 1.0}
        self._log = []

    @property
    def calls(self):
        return len(self._log)

    def update(self, data):
        self._log.append(1)  # no plain value, which would be looked after
        loss = (self.model(data["x"]) * self.scale - data["y"]).square().mean() * self.factor * self.options["factor"]
        self.optimizer.descend(loss)
        return {"loss": loss.detach(), "none": None, "more": [loss.detach() * 2, 3]}

    def captured(self):
        return CapturedFunction(self.update, [self.model], [self.optimizer], holder=self)


def data(seed, rows=5):
    generator = torch.Generator().manual_seed(seed)
    return {"x": torch.randn(rows, 3, generator=generator), "y": torch.randn(rows, 2, generator=generator)}


def same(task, other):
    return all(torch.equal(p, q) for p, q in zip(task.model.parameters(), other.model.parameters(), strict=True))


OPTIMIZERS = [
    (Adam, {"lr": 0.1, "weight_decay": 0.1, "amsgrad": True}),
    (Adam, {"lr": 0.1, "weight_decay": 0.1, "optim_type": "adamw", "grad_clip_type": "clip_norm", "clip_value": 0.5}),
    (Adam, {"lr": 0.1, "grad_clip_type": "clip_value", "clip_value": 0.01}),
    (RMSprop, {"lr": 0.1, "momentum": 0.9, "centered": True, "grad_clip_type": "clip_value", "clip_value": 0.3}),
    (RMSprop, {"lr": 0.1, "eps_inside": True, "grad_ignore_type": "ignore_norm", "ignore_value": 1.0}),
]


@pytest.mark.parametrize(("make", "options"), OPTIMIZERS)
def test_every_optimizer_takes_the_same_steps(make, options):
    plain, played = Task(make, **options), Task(make, **options)
    update = played.captured()
    for i in range(8):
        for task in (plain, played):
            task.optimizer.param_groups[0]["lr"] = 0.1 / (1 + i)
        expected, found = plain.update(data(i)), update(data(i))
        assert torch.equal(found["loss"], expected["loss"]) and found["none"] is None
        assert torch.equal(found["more"][0], expected["more"][0]) and found["more"][1] == 3
        assert same(plain, played)
        for p, q in zip(plain.model.parameters(), played.model.parameters(), strict=True):
            assert torch.equal(p.grad, q.grad)
    assert played.calls == ONCE and plain.calls == 8
    assert torch.equal(plain.optimizer.ignored_count, played.optimizer.ignored_count)
    if "grad_ignore_type" in options:
        assert 0 < plain.optimizer.ignored_count < 8


def test_descend_is_backward_and_step():
    for make, options in OPTIMIZERS:
        plain, other = Task(make, **options), Task(make, **options)
        for i in range(4):
            plain.update(data(i))
            other.optimizer.zero_grad()
            (other.model(data(i)["x"]) - data(i)["y"]).square().mean().backward()
            other.optimizer.step()
            for p, q in zip(plain.model.parameters(), other.model.parameters(), strict=True):
                assert torch.allclose(p, q, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", [Adam, RMSprop])
def test_parameters_without_a_gradient_stay_as_they_are(make):
    """The number of steps, by which Adam corrects its means, is that of each parameter alone."""
    torch.manual_seed(0)
    start = [torch.randn(3), torch.randn(2)]
    ours, theirs = ([nn.Parameter(p.clone()) for p in start] for _ in range(2))
    optimizer, other = make(ours, lr=0.1), getattr(torch.optim, make.__name__)(theirs, lr=0.1)
    for i in range(6):
        for params in (ours, theirs):
            used = (params[0] - i).square().sum()
            if i % 3 == 1:
                used = used + (params[1] * i).square().sum()
            if params is ours:
                optimizer.descend(used)
            else:
                other.zero_grad()
                used.backward()
                other.step()
        for p, q in zip(ours, theirs, strict=True):
            assert torch.allclose(p, q, rtol=1e-5, atol=1e-6)


def test_each_combination_of_shapes_has_a_tape_of_its_own():
    plain, played = Task(), Task()
    update = played.captured()
    for i in range(30):
        assert torch.equal(update(data(i, 1 + i % 3))["loss"], plain.update(data(i, 1 + i % 3))["loss"])
    assert played.calls == 3 * ONCE and same(plain, played)


def test_more_combinations_than_tapes_are_kept_run_as_they_are():
    plain, played = Task(), Task()
    update = played.captured()
    for i in range(100):
        assert torch.equal(update(data(i, 1 + i % 20))["loss"], plain.update(data(i, 1 + i % 20))["loss"])
    assert same(plain, played) and played.calls == 100 - 8  # those that have a tape are played the fifth time


def test_results_of_different_calls_share_no_memory():
    task = Task()
    update = task.captured()
    found = [update(data(0)) for _ in range(6)]
    assert len({result["loss"].data_ptr() for result in found}) == 6
    assert len({float(result["loss"]) for result in found}) == 6


def test_other_tensors_are_recorded_anew():
    plain, played = Task(), Task()
    update = played.captured()

    def step(i):
        assert torch.equal(update(data(i))["loss"], plain.update(data(i))["loss"])
        assert same(plain, played)

    for i in range(4):
        step(i)
    for task in (plain, played):
        task.scale = torch.full((), 3.0)
    for i in range(4):
        step(i)
    for task in (plain, played):
        task.model[0].weight.data = task.model[0].weight.data * 2  # the same parameter, elsewhere
    for i in range(4):
        step(i)
    state = plain.optimizer.state_dict()
    for task in (plain, played):
        task.optimizer.load_state_dict(state)
    for i in range(4):
        step(i)
    for task in (plain, played):
        torch.manual_seed(5)
        task.model[2] = nn.Linear(4, 2)
        task.optimizer.add_param_group({"params": list(task.model[2].parameters()), "lr": 0.5})
    for i in range(4):
        step(i)
    assert played.calls == ONCE + 3 * AGAIN + AGAIN + 1  # the new layer has gradients only from its second update on


def double(*params):
    for p in params:
        p.grad.mul_(2)


CHANGES = {
    "a plain value": lambda task: setattr(task, "factor", 3.0),
    "another object": lambda task: setattr(task, "options", {"factor": 2.0}),
    "a part": lambda task: task.model.__setitem__(1, nn.Sigmoid()),
    "an option": lambda task: task.optimizer.param_groups[0].update(weight_decay=0.5),
    "frozen": lambda task: task.model[0].weight.requires_grad_(False),
    "a tensor's hook": lambda task: task.model[0].weight.register_hook(lambda grad: grad * 2),
    "a gradient's hook": lambda task: task.model[0].weight.register_post_accumulate_grad_hook(double),
    "a module's hook": lambda task: task.model[1].register_forward_hook(lambda module, given, output: output * 2),
    "an optimizer's hook": lambda task: task.optimizer.register_step_pre_hook(
        lambda optimizer, *_: double(*optimizer.trained)
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_changes_while_it_is_played_is_noticed(name):
    plain, played = Task(), Task()
    update = played.captured()
    for i in range(10):
        if i == 5:
            assert played.calls == ONCE
            for task in (plain, played):
                CHANGES[name](task)
        assert torch.equal(update(data(i))["loss"], plain.update(data(i))["loss"])
        assert same(plain, played)
    assert played.calls == (ONCE + 5 if "hook" in name else ONCE + AGAIN)


def test_what_changes_every_time_is_given_up():
    task = Task()
    update = task.captured()
    for i in range(60):
        task.factor = 1.0 + i
        update(data(i))
    assert task.calls == 60 and "again and again" in update.refusal
    assert type(task) is Task


def test_a_holder_that_cannot_be_watched_is_left_alone():
    class Sealed(Task):
        def __init_subclass__(cls):
            raise TypeError("no heirs")

    task = Sealed()
    update = task.captured()
    for i in range(4):
        update(data(i))
    assert task.calls == 4 and "subclasses" in update.refusal


def test_random_numbers_are_those_of_the_generator():
    def draw(given):
        noise = torch.randn_like(given["x"]) + torch.rand(3)
        return noise + torch.empty_like(noise).exponential_()

    captured, x = CapturedFunction(draw, []), {"x": torch.zeros(2, 3)}
    torch.manual_seed(3)
    found = [captured(x) for _ in range(5)]
    torch.manual_seed(3)
    for result in found:
        assert torch.equal(result, draw(x))
    assert captured.refusal is None and any(captured.tapes)


def test_what_is_written_in_place_keeps_nothing_of_the_recording():
    def count(given):
        total = torch.zeros(3)
        total += given["x"].sum(0)
        total[0].fill_(7.0)
        return total, torch.ones(2)

    captured = CapturedFunction(count, [])
    for i in range(5):
        expected, found = count(data(i)), captured(data(i))
        assert torch.equal(found[0], expected[0]) and torch.equal(found[1], torch.ones(2))
        found[0].zero_()  # the caller's to write to
        found[1].zero_()
    assert captured.refusal is None


class Branch(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


FAR, OWN = torch.ones(3), torch.Generator()
REFUSED = {
    "a branch": lambda x: x if x.sum() > 0 else -x,
    "a number": lambda x: x * x.sum().item(),
    "a list": lambda x: x * len([v for v in x.flatten().tolist() if v > 0]),
    "an array": lambda x: x * float(x.numpy().sum()),
    "an array's function": lambda x: x * float(np.sum(np.asarray(x))),
    "a mask's size": lambda x: x[x > 0],
    "places": torch.nonzero,
    "a tensor from elsewhere": lambda x: x + FAR,
    "a generator": lambda x: x + torch.rand(3, generator=OWN),
    "an int": lambda x: x * int(x.abs().sum()),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_depends_on_values_or_comes_from_elsewhere_is_never_played(name):
    function = REFUSED[name]
    captured = CapturedFunction(lambda given: function(given["x"]), [])
    for i in range(5):
        if name == "a generator":
            assert captured(data(i)).shape == (5, 3)
        else:
            assert torch.equal(captured(data(i)), function(data(i)["x"]))
    assert captured.refusal and not any(captured.tapes)


def refusal_of(task):
    """Why the task's updates are not played, of which each of four has run its Python."""
    update = task.captured()
    for i in range(4):
        update(data(i))
    assert task.calls == 4
    return update.refusal


def test_modules_of_others_and_hooks_are_never_played():
    task = Task()
    task.model.append(Branch())
    assert "Branch" in refusal_of(task)
    for hook in ("a module's hook", "an optimizer's hook"):
        task = Task()
        CHANGES[hook](task)
        assert "hooks" in refusal_of(task)


def test_a_guard_that_counts_is_never_played():
    assert "counts" in refusal_of(Task(grad_clip_type="clip_momentum"))


@pytest.mark.parametrize("given", [{"x": np.zeros(3)}, {"x": object()}])
def test_data_that_are_no_tensors_are_given_on(given):
    captured = CapturedFunction(lambda data: data, [])
    for _ in range(3):
        assert captured(given) is given
    assert "among its data" in captured.refusal


def test_plain_values_count_as_well_as_shapes():
    captured = CapturedFunction(lambda given: given["x"] * given["k"], [])
    for i in range(12):
        k = i % 3
        assert torch.equal(captured({"x": torch.ones(2), "k": k}), torch.full((2,), float(k)))
    assert captured.refusal is None and sum(tape is not None for tape in captured.tapes) == 3


def test_one_tensor_given_twice_is_refused():
    captured = CapturedFunction(lambda given: given["x"] + 2 * given["y"], [])
    x = torch.ones(2)
    for _ in range(3):
        assert torch.equal(captured({"x": x, "y": x}), torch.full((2,), 3.0))
    assert "twice" in captured.refusal


def test_under_another_recorder_it_runs_as_it_is():
    task = Task()
    update = task.captured()
    for i in range(4):
        update(data(i))
    with Recorder() as recorder:
        update(data(5))
    assert task.calls == ONCE + 1 and len(recorder.calls) > 10
