import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nervex.utils import DistributionTimeImage, TextLogger, pretty_print
from nervex.utils.errors import ConfigError, SpecError


def test_text_logger(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    logger = TextLogger(tmp_path / "logs", "learner")
    logger.info("100% of it")
    logger.error("lost")
    logger.print_vars({"loss": 0.123456789, "iteration": 12})
    logger.print_vars({"hidden": 1}, level=logging.DEBUG)
    logger.close()
    logger.close()
    logger.info("too late")
    text = (tmp_path / "logs" / "learner_logger.txt").read_text()
    assert text == capsys.readouterr().err
    assert "[INFO] 100% of it\n" in text and "[ERROR] lost\n" in text
    assert text.endswith("\nloss      | 0.123457\niteration | 12\n") and "hidden" not in text


def test_loggers_of_one_name_share_nothing(tmp_path: Path) -> None:
    one, two = TextLogger(tmp_path / "a"), TextLogger(tmp_path / "b", level=logging.ERROR)
    one.info("first")
    two.info("second")
    two.error("third")
    one.close()
    two.close()
    assert "first" in one.file.read_text() and "third" not in one.file.read_text()
    assert "third" in two.file.read_text() and "second" not in two.file.read_text()


def test_pretty_print(capsys: pytest.CaptureFixture) -> None:
    text = pretty_print({"b": {"x": 1, "y": [True, 0.5]}, "a": np.float32(2), "none": None})
    assert text == "b:\n  x: 1\n  y:\n  - true\n  - 0.5\na: 2.0\n"
    assert capsys.readouterr().out == text + "\n"
    assert pretty_print({"é": "ü"}, direct_print=False) == "é: ü\n" and capsys.readouterr().out == ""
    with pytest.raises(ConfigError, match="'a' in the result is of type function"):
        pretty_print({"a": lambda: 0})


def test_distribution_over_time() -> None:
    picture = DistributionTimeImage(maxlen=3)
    picture.add_one_time_step(np.array([0.0, 1.0]))
    picture.add_one_time_step(np.array([0.5, 0.25]))
    image = picture.get_image()
    assert image.shape == (3, 2, 3) and image.dtype == np.float32
    # the first bin is at the bottom; red is the share of the range, blue the rest, black what is to come
    np.testing.assert_array_equal(image[0], [[1, 0.25, 0], [0, 0.5, 0]])
    np.testing.assert_array_equal(image[2], [[0, 0.75, 0], [1, 0.5, 0]])
    assert not image[1].any()
    for _ in range(3):
        picture.add_one_time_step(np.array([1.0, 1.0]))
    np.testing.assert_array_equal(
        picture.get_image()[2], np.ones((2, 3))
    )  # all alike: the least, and the old ones left


def test_distribution_over_time_with_a_fixed_range() -> None:
    picture = DistributionTimeImage(1, val_range=(0, 4))
    for value in (9.0, 1.0):
        picture.add_one_time_step(np.array([value]))
    assert picture.get_image()[:, 0, 0].tolist() == [0.25, 0, 0.75]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DistributionTimeImage(0), "maxlen=0, val_range=None; expected at least one step"),
        (lambda: DistributionTimeImage(3, (1, 1)), r"val_range=\(1, 1\); expected at least one step, and low < high"),
        (lambda: DistributionTimeImage().get_image(), "no time step to show"),
        (
            lambda: DistributionTimeImage().add_one_time_step([[1.0]]),
            r"got \[\[1\.0\]\] of shape \[1, 1\]; expected 1 finite",
        ),
        (
            lambda: DistributionTimeImage().add_one_time_step([float("nan")]),
            r"got \[nan\] of shape \[1\]; expected 1 finite",
        ),
    ],
)
def test_wrong_pictures_are_one_clear_sentence(call: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        call()


def test_a_step_of_another_height_is_refused() -> None:
    picture = DistributionTimeImage()
    picture.add_one_time_step(np.zeros(3))
    with pytest.raises(SpecError, match=r"got \[0\.0, 0\.0\] of shape \[2\]; expected 3 finite numbers"):
        picture.add_one_time_step(np.zeros(2))
