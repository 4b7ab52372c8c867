"""Episodes whose numbers tell where they belong: observation 100·episode + step, action step, reward episode + 1."""

import numpy as np

from nervex.data.offline import FolderWriter, dataset_writer, open_dataset

LENGTHS = (3, 5, 1, 4)
TERMINATED = (True, False, True, False)


def columns(number, length, **more):
    obs = (100 * number + np.arange(length + 1, dtype=np.float32))[:, None]
    return {"obs": obs, "action": np.arange(length), "reward": np.full(length, number + 1.0), **more}


def write(path, lengths=LENGTHS, **kwargs):
    """Writes the episodes into a data set and opens it."""
    with dataset_writer(path, **kwargs) as writer:
        for number, length in enumerate(lengths):
            writer.add(columns(number, length), TERMINATED[number % 4])
    return open_dataset(path)


def parts(path):
    """Writes the same episodes, each into a file of its own."""
    with FolderWriter(path, part_bytes=1) as writer:
        for number, length in enumerate(LENGTHS):
            writer.add(columns(number, length), TERMINATED[number])
    return open_dataset(path)
