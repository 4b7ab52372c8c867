"""What the tests of checkpoints share: a disk that fails, and states that can be told apart."""

import errno

import torch

from nervex.utils.files import FileLayer

_CALLS = ("create", "write", "fsync", "fsync_dir", "rename", "link", "make_dir", "remove", "remove_tree")


class Killed(BaseException):
    """Stands for the death of the process: nothing that comes after it reaches the disk."""


class FaultyDisk(FileLayer):
    """Fails at call ``fail_at`` (a write after half of its bytes): ``once``, from then on (``stays``), or ``killed``.

    Nothing is really flushed: what the tests simulate is a dying process, not a power loss.
    """

    def __init__(self, fail_at=-1, mode="once"):
        self.fail_at, self.mode, self.names = fail_at, mode, []

    def __getattribute__(self, name):
        method = super().__getattribute__(name)
        if name not in _CALLS:
            return method

        def call(*args):
            number = len(self.names)
            self.names.append(name)
            if number == self.fail_at and name == "write":
                method(args[0], memoryview(args[1])[: len(args[1]) // 2])
            if number == self.fail_at and name == "remove_tree":
                next(p for p in args[0].iterdir() if p.is_file()).unlink()
            if number == self.fail_at or (0 <= self.fail_at < number and self.mode != "once"):
                raise Killed if self.mode == "killed" else OSError(errno.ENOSPC, "No space left on device")
            return None if name.startswith("fsync") else method(*args)

        return call


def state(n):
    return {"n": n, "x": torch.full((5,), n, dtype=torch.int64), "name": f"state {n}", 3: (n, None)}


def weights(n):
    return {"layer.weight": torch.full((2, 3), float(n)), "layer.bias": torch.full((), float(n))}


def number_in(tree, loaded_weights):
    """Returns the n of which this is, whole, the state."""
    n = tree["n"]
    assert tree["x"].equal(state(n)["x"]) and tree["name"] == f"state {n}" and tree[3] == (n, None)
    assert set(loaded_weights) == set(weights(n))
    assert all(loaded_weights[k].equal(w) for k, w in weights(n).items())
    return n


def names(directory):
    return sorted(p.name for p in directory.iterdir())


def damage(path):
    file = path / "state.json"
    file.write_bytes(file.read_bytes().replace(b"state", b"stale"))
