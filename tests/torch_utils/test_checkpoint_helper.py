"""One call to save, one to load: what comes back, what is left, what is refused."""

import logging
import pickle

import pytest
import torch
from torch import nn

from nervex.torch_utils import Adam, CheckpointHelper, CountVar, auto_checkpoint, build_checkpoint_helper
from nervex.utils.errors import CheckpointError, ConfigError


class Data:
    def __init__(self, at=0):
        self.at = at

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


def network(hidden=3):
    torch.manual_seed(hidden)
    return nn.Sequential(nn.Linear(2, hidden), nn.Linear(hidden, 1))


def trained():
    model = network()
    optimizer = Adam(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.ones(4, 2)).sum().backward()
        optimizer.step()
    return model, optimizer


@pytest.fixture
def saved(tmp_path):
    """A checkpoint with everything, its model and its optimizer."""
    model, optimizer = trained()
    path = tmp_path / "deep" / "iteration_3.pth.tar"
    counters = [CountVar(3), CountVar(1), CountVar(4000)]
    build_checkpoint_helper().save(path, model, optimizer, *counters, Data(17), Data(5))
    return path, model, optimizer


def weights(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_everything_comes_back(saved):
    path, model, optimizer = saved
    other = network()
    other_optimizer = Adam(other.parameters(), lr=0.5)
    counters, dataset, actor = [CountVar(0) for _ in range(3)], Data(), Data()
    report = CheckpointHelper().load(path, other, other_optimizer, *counters, dataset, actor)
    assert same(weights(other), weights(model)) and [c.val for c in counters] == [3, 1, 4000]
    assert dataset.at == 17 and actor.at == 5 and other_optimizer.param_groups[0]["lr"] == 0.1
    assert report.matched == sorted(model.state_dict()) and report[1:] == ([], [], [])
    for m, o in ((model, optimizer), (other, other_optimizer)):  # the next step is the same, so the moments are
        o.zero_grad()
        m(torch.ones(4, 2)).sum().backward()
        o.step()
    assert same(weights(other), weights(model))


def test_the_model_alone_may_be_loaded_or_saved(saved, tmp_path):
    path, model, _ = saved
    other = network()
    CheckpointHelper().load(path, other)
    assert same(weights(other), weights(model))
    CheckpointHelper().save(tmp_path / "only", model.state_dict())
    CheckpointHelper().load(tmp_path / "only", network(), strict=True)
    with pytest.raises(CheckpointError, match=r"only has no last_iter, optimizer \(it has: weights only\)"):
        CheckpointHelper().load(tmp_path / "only", network(), Data(), CountVar(0))


def test_prefixes_are_added_and_removed(saved, tmp_path):
    _, model, _ = saved
    helper, other = CheckpointHelper(), network()
    helper.save(tmp_path / "added", model, prefix_op="add", prefix="module.")
    with pytest.raises(CheckpointError, match=r"missing: 0.bias, 0.weight, .*; unexpected: module.0.bias"):
        helper.load(tmp_path / "added", other)
    helper.load(tmp_path / "added", other, prefix_op="remove", prefix="module.")
    assert same(weights(other), weights(model))
    helper.save(tmp_path / "removed", nn.ModuleDict({"net": model}), prefix_op="remove", prefix="net.")
    helper.load(tmp_path / "removed", other)
    wrapped = nn.ModuleDict({"net": network()})
    helper.load(tmp_path / "removed", wrapped, prefix_op="add", prefix="net.")
    assert same(weights(wrapped["net"]), weights(model))
    with pytest.raises(ConfigError, match=r"prefix_op is 'add' without a prefix"):
        helper.save(tmp_path / "x", model, prefix_op="add")
    with pytest.raises(ConfigError, match="unknown prefix_op 'ad'"):
        helper.save(tmp_path / "x", model, prefix_op="ad", prefix="a")


def test_strict_refuses_and_changes_nothing(saved):
    path, _, _ = saved
    other = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2), nn.Linear(2, 2))
    before, count = weights(other), CountVar(0)
    match = (
        r"do not fit the model \(missing: 2.bias, 2.weight; mismatched: 1.bias \[1\] for \[2\], "
        r"1.weight \[1, 3\] for \[2, 3\]\); use its model, or strict=False"
    )
    with pytest.raises(CheckpointError, match=match):
        CheckpointHelper().load(path, other, last_iter=count)
    assert same(weights(other), before) and count.val == 0


def test_not_strict_loads_what_fits_and_tells_the_rest(saved, caplog):
    path, model, _ = saved
    other = nn.ModuleDict({"0": nn.Linear(2, 3), "1": nn.Linear(3, 2), "2": nn.Linear(2, 2, bias=False)})
    before = weights(other)
    with caplog.at_level(logging.WARNING, "nervex"):
        report = CheckpointHelper().load(path, other, strict=False, logger_prefix="[actor] ")
    assert report == (["0.bias", "0.weight"], ["2.weight"], [], ["1.bias", "1.weight"])
    after = weights(other)
    assert torch.equal(after["0.weight"], model[0].weight) and torch.equal(after["1.weight"], before["1.weight"])
    assert [r.getMessage() for r in caplog.records] == [
        f"[actor] {path}: missing weights: 2.weight",
        f"[actor] {path}: mismatched weights: 1.bias, 1.weight",
    ]
    smaller = nn.ModuleDict({"0": nn.Linear(2, 3)})
    assert CheckpointHelper().load(path, smaller, strict=False).unexpected == ["1.bias", "1.weight"]


def test_masked_weights_are_left_as_they_are(saved):
    path, model, _ = saved
    other = network()
    before = weights(other)
    report = CheckpointHelper().load(path, other, state_dict_mask=["1."])
    assert report.matched == ["0.bias", "0.weight"] and report.missing == []
    assert torch.equal(other[0].weight, model[0].weight) and torch.equal(other[1].weight, before["1.weight"])
    assert not torch.equal(other[1].weight, model[1].weight)


def test_no_checkpoint_is_overwritten_and_no_pickle_opened(saved, tmp_path):
    path, model, _ = saved
    with pytest.raises(CheckpointError, match="exists already; a checkpoint is never overwritten"):
        CheckpointHelper().save(path, model)
    foreign = tmp_path / "old.pth.tar"
    foreign.write_bytes(pickle.dumps({"model": 1}))
    with pytest.raises(CheckpointError, match=r"old.pth.tar is not loaded: files of the kind '.tar' can run code"):
        CheckpointHelper().load(foreign, model)
    with pytest.raises(
        CheckpointError, match=r"none.pth.tar is not a nerveX checkpoint: cannot read its manifest.json"
    ):
        CheckpointHelper().load(tmp_path / "none.pth.tar", model)


def test_a_damaged_checkpoint_is_refused(saved):
    path, model, _ = saved
    file = path / "weights.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match="digest does not match"):
        CheckpointHelper().load(path, model)


def test_the_builder_gives_a_helper_whatever_the_settings(tmp_path):
    helper = build_checkpoint_helper({"type": "anything"})
    helper.save(tmp_path / "a", network())
    assert type(helper) is CheckpointHelper and (tmp_path / "a" / "weights.safetensors").is_file()


def test_count_var():
    count = CountVar(init_val=3)
    count.add(4)
    assert count.val == 7
    count.update(2)
    assert count.val == 2


class Run:
    def __init__(self, error=None, save_error=None):
        self.error, self.save_error, self.saved = error, save_error, 0

    def save_checkpoint(self):
        if self.save_error:
            raise self.save_error
        self.saved += 1

    @auto_checkpoint
    def run(self, n, twice=False):
        """Runs."""
        if self.error:
            raise self.error
        return 2 * n if twice else n


def test_auto_checkpoint_saves_before_it_passes_an_exception_on(caplog):
    fine = Run()
    assert fine.run(3) == 3 and fine.run(3, twice=True) == 6 and fine.saved == 0 and Run.run.__doc__ == "Runs."
    for error in (OSError("disk"), KeyboardInterrupt()):
        run = Run(error)
        with pytest.raises(type(error)):
            run.run(1)
        assert run.saved == 1
    broken = Run(ValueError("first"), CheckpointError("full"))
    with pytest.raises(ValueError, match="first"):
        broken.run(1)
    assert "no checkpoint could be saved after an error in Run.run" in caplog.text
