"""The cases in which managers of envs are measured."""

from collections.abc import Iterator
from typing import Any


def cases(
    given: dict[str, Any], alone: str, workers: str, native: str
) -> Iterator[tuple[str, str, dict[str, Any], int, str]]:
    """Yields kind of manager, env id, options of the env, number of envs and title.

    Args:
        given: settings of the job.
        alone, workers, native: the library's names for envs in this process, in worker processes, and in array code.
    """
    env, num, busy = given["env"], given["env_num"], {"work_s": given["work_s"]}
    for kind, place in ((alone, "in this process"), (workers, "in worker processes")):
        yield kind, env, {}, num, f"{env}, {place}"
        yield kind, "busy_env:Busy-v0", busy, num, f"{1e3 * given['work_s']:g} ms of work a step, {place}"
    for number in given.get("growth", []):
        yield alone, env, {}, number, f"{env}, {number} env(s) in this process"
        yield native, env, {}, number, f"{env}, {number} env(s) in its native vector"
