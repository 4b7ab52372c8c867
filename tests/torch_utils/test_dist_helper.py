"""A process alone, and two real processes that talk by Gloo over the loopback address."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from nervex import utils
from nervex.torch_utils import dist_helper
from nervex.utils.errors import ConfigError, DistributedError

LIMIT_S = 120


@pytest.fixture(scope="module")
def pair() -> list[dict[str, Any]]:
    """What the two processes of ``dist_worker`` saw."""
    ports = [str(utils.find_free_port()) for _ in range(3)]
    env = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "SLURM_NTASKS": "2", "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("dist_worker.py")), *ports],
            env={**env, "RANK": str(rank), "SLURM_PROCID": str(rank)},
            stdout=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    try:
        seen = [json.loads(worker.communicate(timeout=LIMIT_S)[0]) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0]
    return seen


def test_two_processes_find_each_other(pair: list[dict[str, Any]]) -> None:
    for rank, seen in enumerate(pair):
        assert seen["init"] == [rank, 2, rank, 2]
        assert seen["decorated"] == [rank, 2] and seen["after"] == [0, 1]
        assert seen["slurm"] == [rank, 2]
        assert seen["twice"] == "ConfigError: dist_init was called twice in one process; call dist_finalize in between"


def test_two_processes_exchange_values(pair: list[dict[str, Any]]) -> None:
    for rank, seen in enumerate(pair):
        assert seen["broadcast"] == [11, 7]
        assert seen["sum"] == [[2, 9], [2, 9]]
        assert seen["max"] == [1, 0]
        assert seen["groups"] == [[rank], [0, 1]]


@pytest.mark.parametrize("way", ["sync", "overlap"])
def test_gradients_are_the_mean_of_both(pair: list[dict[str, Any]], way: str) -> None:
    one, two = (seen[way] for seen in pair)
    assert one["begin"] == two["begin"]  # those of process 0
    for i, (own, other) in enumerate(zip(pair[0]["sync"]["own"], pair[1]["sync"]["own"], strict=True)):
        if own is None:  # the layer that took no part
            assert one["mean"][i] == two["mean"][i] and (one["mean"][i] is None) == (way == "overlap")
            assert way == "overlap" or not torch.tensor(one["mean"][i]).any()
            continue
        assert own != other or i == 1  # the bias before a normalization has none to speak of
        expected = (torch.tensor(own) + torch.tensor(other)) / 2
        for mean in (one["mean"][i], two["mean"][i]):
            assert torch.allclose(torch.tensor(mean), expected, rtol=1e-5, atol=1e-6)


def test_reported_averages_are_those_of_both(pair: list[dict[str, Any]]) -> None:
    for rank, seen in enumerate(pair):
        together, own = seen["averages"]
        assert together == {"total_loss": pytest.approx((9 + 9) / 6), "rank": 0.5}
        assert own == {"total_loss": [4.0, 8.0][rank], "rank": rank}


def test_a_process_that_has_gone_is_an_error(pair: list[dict[str, Any]]) -> None:
    assert pair[0]["gone"].startswith("DistributedError: allreduce of process 0 of 2 failed: ")
    assert pair[0]["gone"].endswith("is a process gone, or are shapes or dtypes not the same everywhere?")


def test_a_group_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_PORT": str(utils.find_free_port())}.items():
        monkeypatch.setenv(name, value)
    assert utils.dist_init(backend="gloo", timeout_s=60) == (0, 1)
    try:
        for group in (utils.get_group(1), utils.simple_group_split(1, 0, 1)):
            assert group is not None and dist.get_process_group_ranks(group) == [0]
        assert utils.allreduce(torch.tensor([3.0])).tolist() == [3]
        utils.dist_finalize()
        assert not dist.is_initialized()
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def test_the_rank_is_that_of_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_rank", lambda: 3)
    assert utils.get_rank() == 3


def test_a_process_alone() -> None:
    assert (utils.get_rank(), utils.get_world_size(), utils.get_group(1)) == (0, 1, None)
    value = torch.tensor([1.0, 2.0])
    for same in (utils.broadcast(value), utils.allreduce(value), utils.allreduce(value, "max")):
        assert same is value and value.tolist() == [1, 2]
    net = utils.DistModule(nn.Linear(2, 1))
    assert torch.equal(net(value), net.module(value))
    net(value).sum().backward()
    net.sync_gradients()
    assert net.module.weight.grad is not None and net.module.weight.grad.tolist() == [[1, 2]]
    utils.dist_finalize()
    assert utils.simple_group_split(6, 4, 3) is None
    assert utils.try_import_link() is torch.distributed


def test_distributed_mode_runs_alone_and_always_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(dist_helper, "dist_init", lambda: calls.append("init"))
    monkeypatch.setattr(dist_helper, "dist_finalize", lambda: calls.append("finalize"))
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert utils.distributed_mode(lambda x, y: x + y)(1, y=2) == 3 and calls == ["finalize"]
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(KeyError):
        utils.distributed_mode({}.pop)("missing")
    assert calls == ["finalize", "init", "finalize"]


@pytest.mark.parametrize(
    ("nodes", "host"),
    [("gpu[03-05,09],login1", "gpu03"), ("gpu7", "gpu7"), ("a1,a2", "a1"), ("rack-2-[1,4]", "rack-2-1")],
)
def test_the_first_host_of_slurm(monkeypatch: pytest.MonkeyPatch, nodes: str, host: str) -> None:
    monkeypatch.setenv("SLURM_NODELIST", nodes)
    assert dist_helper._first_host() == host


def test_others_that_never_come(monkeypatch: pytest.MonkeyPatch) -> None:
    port = utils.find_free_port()
    for name, value in [("RANK", "1"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", str(port))]:
        monkeypatch.setenv(name, value)
    with pytest.raises(
        DistributedError, match=rf"process 1 of 2 did not meet the others at 127\.0\.0\.1:{port} within 1 s"
    ):
        utils.dist_init(backend="gloo", timeout_s=1)
    assert utils.get_world_size() == 1


@pytest.mark.parametrize(
    ("env", "call", "message"),
    [
        ({}, utils.dist_init, r"dist_init\('single_node'\) found RANK=None in the environment; .* torchrun"),
        ({"RANK": "x"}, utils.dist_init, "found RANK='x'"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, utils.dist_init, "got rank 2 of 2; ranks count from 0"),
        ({}, lambda: utils.dist_init("slurm"), r"dist_init\('slurm'\) found SLURM_PROCID=None .* srun"),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, lambda: utils.dist_init("slurm"), "SLURM_NODELIST=''"),
        ({}, lambda: utils.dist_init("slrum"), r"unknown method 'slrum' of dist_init; did you mean 'slurm'\?"),
        ({}, lambda: utils.broadcast(torch.zeros(1), 1), "broadcast got rank=1; there are 1 processes"),
        ({}, lambda: utils.allreduce(torch.zeros(1), "mean"), "unknown operation 'mean' of allreduce"),
        ({}, lambda: utils.get_group(2), "group_size=2; expected a divisor of the 1 processes"),
        ({}, lambda: utils.simple_group_split(6, 0, 4), "world_size=6, rank=0, num_groups=4; expected equal groups"),
        ({}, lambda: utils.simple_group_split(6, 6, 2), "rank=6"),
    ],
)
def test_wrong_use_is_one_clear_sentence(
    monkeypatch: pytest.MonkeyPatch, env: dict[str, str], call: Any, message: str
) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_NODELIST"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        call()
