"""The blind trial: envs by someone who had not seen the checker (see ``blind/README.md``)."""

from pathlib import Path

import pytest

from nervex.config.source import read_source
from nervex.entry.check_entry import CheckReport, check_config
from nervex.utils.errors import NerveXError

FOLDER = Path(__file__).parent / "blind"
#: mistake -> the kind of the finding that names it
FAULTY = {
    "01": "time-limit",  # its own limit sent as a termination
    "02": "autoreset",  # resets itself within step()
    "03": "global-random",
    "04": "same-seed",  # the seed has no effect
    "05": "carried-over",  # something hidden outlives reset()
    "06": "shared-state",  # a class attribute
    "07": "obs-alias",  # below FrameStackObservation
    "08": "obs-finite",  # NaN on one cell
    "09": "obs-bounds",  # late in an episode
    "10": "score",  # adds up over episodes
    "11": "action-effect",  # none
    "12": "carried-over",  # reset() does nothing after a truncation
    "13": "reward-wraps",  # uint8
    "14": "mask-empty",
    "15": "sleeps",
    "16": "memory",
    "17": "old-truncated",
    "18": "pickle-class",
    "19": "obs-shape",  # rarely
    "20": "prints",
}


def findings(name):
    """Lines of the section on the env, whatever comes after it."""
    report = CheckReport()
    try:
        check_config(read_source(FOLDER / f"{name}.yaml"), report, speed=False)
    except NerveXError as e:
        report.env.append(f"error {e}")
    return [line for line in report.env if line.split()[0] in ("error", "warning")]


@pytest.mark.slow
@pytest.mark.parametrize("number", FAULTY)
def test_every_mistake_is_found(number):
    found = findings(f"faulty_{number}")
    assert any(f"[{FAULTY[number]}]" in line for line in found), found


@pytest.mark.slow
@pytest.mark.parametrize("number", [f"{n:02d}" for n in range(1, 11)])
def test_what_is_odd_but_right_gives_no_alarm(number):
    assert findings(f"odd_{number}") == []
