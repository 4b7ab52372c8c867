"""Updates in whose Python something goes on: played or not, they give what they give as they are written."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from nervex.model.discrete_net import ConvDiscreteNet
from nervex.torch_utils.captured import CapturedFunction
from nervex.torch_utils.optimizer import Adam, RMSprop


class Task:
    """A small network and an update of it; ``loss`` is what a case changes."""

    def __init__(self, *layers, make=Adam):
        self.model = nn.Sequential(*(layers or (nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))))
        self.optimizer = make(self.model.parameters(), lr=0.1)
        self.controller = Controller()

    def loss(self, x, y):
        return (self.model(x) - y).square().mean()

    def update(self, data):
        loss = self.loss(data["x"], data["y"])
        self.optimizer.descend(loss)
        return {"loss": loss.detach()}


class Controller:
    def __init__(self):
        self.factor = 1.0


def data(seed):
    generator = torch.Generator().manual_seed(seed)
    return {"x": torch.randn(5, 3, generator=generator), "y": torch.randn(5, 2, generator=generator)}


def tensors(task):
    kept = {f"attribute {k}": v for k, v in vars(task).items() if isinstance(v, torch.Tensor | int)}
    return {**task.model.state_dict(), **kept}


def compare(make, change=lambda task, i: None, steps=9):
    """Updates of two tasks, one of them captured; returns the captured function."""
    tasks = []
    for _ in range(2):
        torch.manual_seed(0)
        tasks.append(make())
    plain, played = tasks
    update = CapturedFunction(played.update, [played.model], [played.optimizer], holder=played)
    for i in range(steps):
        found = []
        for task, function in ((plain, plain.update), (played, update)):
            change(task, i)
            torch.manual_seed(i)
            found.append(function(data(i)))
        assert type(found[0]) is type(found[1]) and torch.equal(found[0]["loss"], found[1]["loss"]), f"update {i}"
        assert found[0].get("number") == found[1].get("number"), f"update {i}"
        ours, theirs = tensors(played), tensors(plain)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(torch.as_tensor(ours[k]), torch.as_tensor(theirs[k])) for k in theirs), f"update {i}"
        assert [m.training for m in plain.model.modules()] == [m.training for m in played.model.modules()]
    return update


def with_loss(function):
    return type("Own", (Task,), {"loss": function})


def counting(self, x, y):
    self.count = getattr(self, "count", 0) + 1
    return Task.loss(self, x, y) * (1 if self.count < 7 else 3)


def remembering(self, x, y):
    self.last = x.sum()
    return Task.loss(self, x, y)


def reshaping(self, x, y):
    value = self.model(x)[:, :1]
    target = value.detach().squeeze_(-1)
    return (value - y[:, :1]).square().mean() + target.mean() * 0 + value.mean()


def setting_data(self, x, y):
    self.model[0].bias.data = self.model[0].bias.data.clamp(-0.01, 0.01)
    return Task.loss(self, x, y)


def forking(self, x, y):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        noise = torch.randn_like(x)
    return Task.loss(self, x + noise + 0.1 * torch.randn_like(x), y)


def recomputing(self, x, y):
    return (checkpoint(lambda v: self.model(torch.dropout(v, 0.5, True)), x, use_reentrant=False) - y).square().mean()


def reading_the_rate(self, x, y):
    return Task.loss(self, x, y) * self.optimizer.param_groups[0]["lr"]


def splitting(self, x, y):
    first, _ = torch.tensor_split(x, (x[:, 0] > 0).sum().clamp(1, 4).reshape(1))
    return Task.loss(self, x, y) + first.sum() * self.model[0].weight.sum()


SIDE_EFFECTS = [
    counting, remembering, setting_data, forking, recomputing, reading_the_rate, reshaping, splitting,
]  # fmt: skip


@pytest.mark.parametrize("loss", SIDE_EFFECTS)
def test_python_that_a_tape_would_leave_out_is_never_left_out(loss):
    def rates(task, i):
        task.optimizer.param_groups[0]["lr"] = 0.1 / (1 + i)

    assert compare(with_loss(loss), rates).refusal is not None


def test_numbers_in_an_array_are_not_looked_at():
    class Scaled(Task):
        def __init__(self):
            super().__init__()
            self.scale = np.ones(1)

        def loss(self, x, y):
            return super().loss(x, y) * float(self.scale[0])

    assert "scale" in compare(Scaled, lambda task, i: task.scale.fill(1.0 + i // 5)).refusal


@pytest.mark.parametrize("step", ["ours", "torch's"])
def test_a_step_takes_its_learning_rate_from_python(step):
    class Stepping(Task):
        def __init__(self):
            super().__init__()
            if step == "torch's":
                self.other = torch.optim.SGD(self.model.parameters(), lr=0.1)

        def update(self, given):
            optimizer = self.other if step == "torch's" else self.optimizer
            loss = self.loss(given["x"], given["y"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return {"loss": loss.detach()}

    assert "learning rate" in compare(Stepping).refusal


def test_other_containers_and_numbers_are_returned_as_they_are():
    class Ordered(Task):
        def update(self, given):
            return OrderedDict(super().update(given))

    class Numbered(Task):
        def update(self, given):
            return {**super().update(given), "number": self.optimizer.param_groups[0]["lr"]}

    assert "OrderedDict" in compare(Ordered).refusal
    assert (
        "number" in compare(Numbered, lambda task, i: task.optimizer.param_groups[0].update(lr=0.1 / (i + 1))).refusal
    )


def test_weights_are_handed_out_without_a_hold():
    class Giving(Task):
        def update(self, given):
            return {**super().update(given), "weight": self.model[0].weight.detach()}

    task = Giving()
    update = CapturedFunction(task.update, [task.model], [task.optimizer], holder=task)
    for i in range(6):
        weight = update(data(i))["weight"]
        assert not weight.requires_grad and weight is not task.model[0].weight
    assert any(update.tapes)


def test_statistics_move_although_the_loss_does_not_need_them():
    class Watching(Task):
        def loss(self, x, y):
            self.model[0](x)  # moves its running statistics, and no more
            return self.model[1](x).square().mean()

    assert any(compare(lambda: Watching(nn.BatchNorm1d(3), nn.Linear(3, 2))).tapes)


def test_a_check_that_raises_is_kept():
    def factor(given):
        return torch.linalg.cholesky(given["x"])

    update = CapturedFunction(factor, [])
    good, bad = torch.eye(3), -torch.eye(3)
    for _ in range(5):
        assert torch.equal(update({"x": good.clone()}), good)
    assert any(update.tapes)
    with pytest.raises(torch.linalg.LinAlgError):
        update({"x": bad})


def test_an_update_that_raises_while_it_is_proven_has_changed_nothing():
    class Raising(Task):
        def update(self, given):
            output = super().update(given)
            if len(calls) == 2:
                raise ArithmeticError("in the third call, after its step")
            calls.append(1)
            return output

    calls = []
    torch.manual_seed(0)
    task = Raising()
    update = CapturedFunction(task.update, [task.model], [task.optimizer], holder=task)
    for i in range(2):
        update(data(i))
    before = {k: v.clone() for k, v in task.model.state_dict().items()}
    with pytest.raises(ArithmeticError):
        update(data(2))
    assert all(torch.equal(v, before[k]) for k, v in task.model.state_dict().items())
    assert task.optimizer.param_groups[0]["lr"] == 0.1


MODULES = {
    "dropout": (lambda: nn.Dropout(0.5), lambda m: setattr(m, "p", 0.1)),
    "statistics": (lambda: nn.BatchNorm1d(4), lambda m: setattr(m, "momentum", 0.9)),
    "frozen": (lambda: nn.BatchNorm1d(4), lambda m: m.eval()),
    "slope": (lambda: nn.LeakyReLU(0.1), lambda m: setattr(m, "negative_slope", 0.7)),
    "mode": (lambda: nn.Dropout(0.5), lambda m: m.eval()),
    "bias": (lambda: nn.Linear(4, 4, bias=False), lambda m: setattr(m, "bias", nn.Parameter(torch.ones(4)))),
    "transposed": (lambda: nn.Linear(4, 4), lambda m: setattr(m.weight, "data", m.weight.data.t())),
    "forward": (nn.Tanh, lambda m: setattr(m, "forward", torch.sin)),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_that_is_set_otherwise_is_noticed(name):
    build, change = MODULES[name]

    def make():
        return Task(nn.Linear(3, 4), build(), nn.Linear(4, 2))

    update = compare(make, lambda task, i: change(task.model[1]) if i == 5 else None, steps=12)
    assert (update.refusal is not None) if name == "forward" else any(tape and tape.proven for tape in update.tapes)


def test_modes_that_alternate_have_a_tape_each():
    update = compare(lambda: Task(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2)),
                     lambda task, i: task.model.train(i % 2 == 0), steps=12)  # fmt: skip
    assert [tape.proven for tape in update.tapes] == [True, True]


def test_a_layer_that_is_appended_is_noticed():
    compare(Task, lambda task, i: task.model.append(nn.Tanh()) if i == 5 else None)


def test_what_an_object_of_the_holder_holds_is_noticed():
    class Controlled(Task):
        def loss(self, x, y):
            return super().loss(x, y) * self.controller.factor * getattr(self, "extra", 1.0)

    def change(task, i):
        if i == 5:
            task.controller.factor = 2.0
        if i == 10:
            task.extra = 3.0

    assert any(compare(Controlled, change, steps=15).tapes)


def test_an_object_of_very_many_parts_is_not_looked_at():
    class Remembering(Task):
        def __init__(self):
            super().__init__()
            self.table = dict.fromkeys(range(2000), 1.0)

        def loss(self, x, y):
            return super().loss(x, y) * self.table[0]

    assert "too many parts" in compare(Remembering, lambda task, i: task.table.update({0: 1.0 + i})).refusal


def test_hooks_of_all_modules_are_noticed():
    handles = []

    def change(task, i):
        if i == 5 and not handles:
            handles.append(nn.modules.module.register_module_forward_hook(lambda m, given, output: output * 2))

    try:
        compare(Task, change, steps=8)
    finally:
        handles[0].remove()


def test_a_hook_that_is_there_first_and_then_removed():
    handles = {}

    def change(task, i):
        if i == 0:
            handles[id(task)] = task.model[0].weight.register_hook(lambda grad: grad * 3)
        if i == 5:
            handles[id(task)].remove()

    assert "hooks" in compare(Task, change).refusal


def test_a_network_that_no_one_looks_after_is_not_played():
    class Hidden(Task):
        def __init__(self):
            super().__init__()
            self.hidden = [nn.Linear(3, 2)]
            self.optimizer.add_param_group({"params": list(self.hidden[0].parameters())})

        def loss(self, x, y):
            return super().loss(x, y) + self.hidden[0](x).mean()

    assert "elsewhere" in compare(Hidden).refusal


@pytest.mark.parametrize("switch", [lambda: torch.autocast("cpu", torch.bfloat16), torch.autograd.detect_anomaly])
def test_what_is_switched_on_around_it_later_is_seen(switch):
    plain, played = Task(), Task()
    played.model.load_state_dict(plain.model.state_dict())
    update = CapturedFunction(played.update, [played.model], [played.optimizer], holder=played)
    for i in range(8):
        if i < 5:
            one, two = plain.update(data(i)), update(data(i))
        else:
            with switch():
                one, two = plain.update(data(i)), update(data(i))
        assert torch.equal(one["loss"], two["loss"])


@pytest.mark.parametrize("make", [Adam, RMSprop])
def test_gradients_that_are_one_number_move_all_weights(make):
    """The gradient of a sum has strides of 0, which fused kernels would read past."""
    p = nn.Parameter(torch.arange(6.0).reshape(2, 3))
    before = p.detach().clone()
    optimizer = make([p], lr=0.5)
    optimizer.descend(p.sum() * 2)
    moved = before - p.detach()
    assert torch.equal(p.grad, torch.full((2, 3), 2.0)) and p.grad.stride() == p.stride()
    assert torch.allclose(moved, moved[0, 0].expand(2, 3)) and moved[0, 0] > 0


@pytest.mark.parametrize("make", [Adam, RMSprop])
def test_convolutions_are_trained_as_by_torch(make):
    """Gradients of their weights have the channels innermost in memory, the weights outermost."""
    nets = []
    for _ in range(2):
        torch.manual_seed(0)
        nets.append(ConvDiscreteNet([3, 36, 36], 2))
    ours = make(nets[0].parameters(), lr=1e-3)
    theirs = getattr(torch.optim, make.__name__)(nets[1].parameters(), lr=1e-3)
    for _ in range(4):
        image = torch.randint(0, 256, (2, 3, 36, 36), dtype=torch.uint8)
        one, two = (net({"obs": image})["logit"].square().mean() for net in nets)
        ours.descend(one)
        theirs.zero_grad()
        two.backward()
        theirs.step()
    for (name, p), q in zip(nets[0].named_parameters(), nets[1].parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-4, atol=2e-5), name  # of steps of 1e-3


@pytest.mark.parametrize("make", [Adam, RMSprop])
def test_descend_follows_its_groups(make):
    one, two = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = make([{"params": [one]}, {"params": [two]}], lr=torch.tensor(0.5) if make is Adam else 0.5)
    optimizer.descend((one**2).sum())  # a group without gradients
    assert two.tolist() == [1.0, 1.0] and one[0] < 1
    new = nn.Parameter(torch.ones(2))
    optimizer.param_groups[1]["params"] = [new]
    optimizer.descend((new**2).sum())
    assert new[0] < 1
    optimizer.state.clear()
    optimizer.descend((new**2).sum())
    assert len(optimizer.state_dict()["state"]) == 2
