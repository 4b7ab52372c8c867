"""Learning rate schedules: values, updates, and going on from a checkpoint."""

import json
import math

import pytest
import torch

from nervex.torch_utils.lr_schedule import SCHEDULE_TYPES, LRSchedule
from nervex.torch_utils.optimizer import Adam, RMSprop
from nervex.torch_utils.state_tree import decode_state, encode_state
from nervex.utils.errors import CheckpointError, ConfigError


def optimizer_of(*rates, cls=Adam):
    return cls([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in rates])


def rates_of(*optimizers):
    return [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]


def course(count, **options):
    """The rates of ``count`` updates, for an initial rate of 1."""
    optimizer = optimizer_of(1.0)
    schedule, found = LRSchedule(optimizer, **options), []
    for _ in range(count):
        found += rates_of(optimizer)
        schedule.step()
    return found


def test_linear():
    assert course(6, type="linear", length=4) == pytest.approx([1, 0.75, 0.5, 0.25, 0, 0])
    assert course(6, type="linear", length=4, end_factor=0.2) == pytest.approx([1, 0.8, 0.6, 0.4, 0.2, 0.2])
    assert course(3, type="linear", length=2, end_factor=3.0) == pytest.approx([1, 2, 3])


def test_cosine():
    half = math.sqrt(0.5) / 2
    assert course(6, type="cosine", length=4) == pytest.approx([1, 0.5 + half, 0.5, 0.5 - half, 0, 0])
    assert course(5, type="cosine", length=4, end_factor=0.5)[2:] == pytest.approx([0.75, 0.75 - half / 2, 0.5])


def test_exponential():
    assert course(5, type="exp", length=3, end_factor=0.001) == pytest.approx([1, 0.1, 0.01, 0.001, 0.001])


def test_constant():
    assert course(4) == [1, 1, 1, 1]
    assert course(4, length=2, end_factor=0.0) == [1, 1, 1, 1]


@pytest.mark.parametrize("kind", SCHEDULE_TYPES)
def test_warmup_is_part_of_the_length(kind):
    options = {} if kind == "constant" else {"end_factor": 0.1}
    with_warmup = course(12, type=kind, length=10, warmup=3, **options)
    assert with_warmup[:4] == pytest.approx([0.25, 0.5, 0.75, 1])
    assert with_warmup[3:] == pytest.approx(course(9, type=kind, length=7, **options))


def test_every_group_of_every_optimizer_keeps_its_proportion():
    actor, critic = optimizer_of(0.1), optimizer_of(0.2, 0.4, cls=RMSprop)
    schedule = LRSchedule([actor, critic], "linear", 4)
    schedule.step()
    assert schedule.factor == 0.75
    assert rates_of(actor, critic) == pytest.approx([0.075, 0.15, 0.3])


def test_the_update_uses_it():
    """Adam's first updates of a constant gradient have the length of the rate."""
    optimizer = optimizer_of(0.5)
    param = optimizer.param_groups[0]["params"][0]
    schedule, places = LRSchedule(optimizer, "linear", 2), [0.0]
    for _ in range(3):
        param.grad = torch.ones(1)
        optimizer.step()
        schedule.step()
        places.append(-param.item())
    assert places == pytest.approx([0, 0.5, 0.75, 0.75], abs=1e-5)


@pytest.mark.parametrize("schedule_first", [True, False])
def test_it_goes_on_from_a_checkpoint(schedule_first):
    optimizer = optimizer_of(0.3, 0.6)
    schedule = LRSchedule(optimizer, "cosine", 10, warmup=2)
    for _ in range(5):
        schedule.step()
    structure, tensors = encode_state({"o": optimizer.state_dict(), "s": schedule.state_dict()})
    saved = decode_state(json.loads(json.dumps(structure)), tensors)
    other = optimizer_of(9.0, 9.0)
    restored = LRSchedule(other, "cosine", 10, warmup=2)
    parts = [(restored, "s"), (other, "o")]
    for part, name in parts if schedule_first else parts[::-1]:
        part.load_state_dict(saved[name])
    for _ in range(7):
        assert rates_of(other) == rates_of(optimizer)
        schedule.step()
        restored.step()
    assert rates_of(optimizer) == pytest.approx([0, 0])


def test_a_state_of_other_groups_is_refused():
    state = LRSchedule(optimizer_of(1.0)).state_dict()
    with pytest.raises(CheckpointError, match="was saved for 1 parameter groups, this one has 2"):
        LRSchedule(optimizer_of(1.0, 2.0)).load_state_dict(state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"type": "cosin", "length": 5}, "unknown type 'cosin'; did you mean 'cosine'? (known: constant, linear, "),
        ({"type": "linear"}, "a 'linear' schedule needs a length above its warmup of 0, got None; set it to"),
        ({"type": "linear", "length": math.inf}, "needs a length above its warmup of 0, got inf"),
        ({"type": "exp", "length": 5, "warmup": 5, "end_factor": 0.1}, "needs a length above its warmup of 5, got 5"),
        ({"warmup": -1}, "warmup is -1, expected at least 0"),
        ({"type": "exp", "length": 5}, "end_factor of a 'exp' schedule is 0.0, expected above 0"),
        ({"type": "linear", "length": 5, "end_factor": -1}, "end_factor of a 'linear' schedule is -1, expected at"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ConfigError) as e:
        LRSchedule(optimizer_of(1.0), **options)
    assert message in str(e.value)
