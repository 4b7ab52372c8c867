"""One of two processes of ``test_dist_helper``: does everything once and prints what it saw as JSON."""

import json
import os
import sys
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from nervex import utils
from nervex.utils.errors import NerveXError
from nervex.worker.learner import BaseLearner


def gradients(sync: bool) -> dict[str, Any]:
    torch.manual_seed(utils.get_rank())  # weights of its own
    net = utils.DistModule(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1), nn.Linear(1, 1)), sync)
    begin = [t.clone() for t in (*net.parameters(), *net.buffers())]
    obs = torch.arange(8.0).reshape(4, 2) * (utils.get_rank() + 1)
    net.module[2](net.module[1](net.module[0](obs))).square().sum().backward()  # the last layer takes no part
    own = [None if p.grad is None or not sync else p.grad.clone() for p in net.parameters()]
    net.sync_gradients()
    mean = [p.grad for p in net.parameters()]
    named = {"begin": begin, "own": own, "mean": mean}
    return {name: [None if t is None else t.tolist() for t in tensors] for name, tensors in named.items()}


def averages() -> list[dict[str, float]]:
    """What a learner of each process reports: of iterations 1 to 3 all processes together, of iteration 4 its own."""
    rank, reported = utils.get_rank(), []
    losses = iter([[1.0, 2.0, 6.0, 4.0], [5.0, 4.0, 0.0, 8.0]][rank])
    policy = SimpleNamespace(
        data_preprocess=lambda batch: batch,
        forward=lambda batch: {"total_loss": torch.tensor(next(losses)), "rank": rank},
    )
    learner = BaseLearner({"log_freq": 3, "hook": {"log_reduce": {"priority": 5}}}, policy)
    learner.report = reported.append
    for _ in range(3):
        learner.train({})
    learner.hooks["after_iter"] = [hook for hook in learner.hooks["after_iter"] if hook.name != "log_reduce"]
    learner.train({})
    return [*reported, learner.take_averages()]


def error_of(call: Any) -> str:
    try:
        call()
    except NerveXError as e:
        return f"{type(e).__name__}: {e}"
    return "no error"


def main() -> None:
    rank, ports = int(os.environ["RANK"]), sys.argv[1:]
    seen: dict[str, Any] = {}
    os.environ["MASTER_PORT"] = ports[0]
    seen["init"] = [*utils.dist_init(backend="gloo", timeout_s=60), utils.get_rank(), utils.get_world_size()]
    seen["broadcast"] = utils.broadcast(torch.tensor([10 * rank + 1, 7]), rank=1).tolist()
    value = torch.tensor([1.0, 5.0 - rank])
    seen["sum"] = [utils.allreduce(value).tolist(), value.tolist()]
    seen["max"] = utils.allreduce(torch.tensor([rank, -rank]), "max").tolist()
    seen["groups"] = [
        dist.get_process_group_ranks(group) for group in (utils.get_group(1), utils.simple_group_split(2, rank, 1))
    ]
    seen["sync"], seen["overlap"] = gradients(True), gradients(False)
    seen["averages"] = averages()
    seen["twice"] = error_of(utils.dist_init)
    utils.dist_finalize()

    os.environ["MASTER_PORT"] = ports[1]
    seen["decorated"] = utils.distributed_mode(lambda: [utils.get_rank(), utils.get_world_size()])()
    seen["after"] = [utils.get_rank(), utils.get_world_size()]

    os.environ["MASTER_PORT"] = ports[2]
    del os.environ["RANK"], os.environ["WORLD_SIZE"]
    seen["slurm"] = list(utils.dist_init("slurm", backend="gloo", timeout_s=60))
    if rank == 0:  # the other one leaves meanwhile
        seen["gone"] = error_of(lambda: utils.allreduce(torch.zeros(1)))
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
