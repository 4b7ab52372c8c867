from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nervex.utils import DistributionTimeImage, TensorBoardLogger, TextLogger, build_logger
from nervex.utils.errors import ConfigError


def events(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder), size_guidance={"images": 0, "histograms": 0})
    found.Reload()
    return found


def test_both_loggers_write(tmp_path: Path) -> None:
    text, board = build_logger(tmp_path, "learner")
    assert isinstance(text, TextLogger) and isinstance(board, TensorBoardLogger)
    text.info("begun")
    for name, kind in [("loss", "scalar"), ("entropy", "scalar"), ("weight", "histogram"), ("actions", "image")]:
        board.register_var(name, kind)
    board.register_var("note", "text")
    board.print_vars({"loss": 0.5, "entropy": torch.tensor(1.25)}, cur_step=3, viz_type="scalar")
    board.add_val_list([("loss", 0.25, 5), ("weight", np.array([1.0, 2.0, 9.0]), 5)])
    picture = DistributionTimeImage(4)
    picture.add_one_time_step(np.array([0.0, 1.0]))
    board.print_vars({"actions": picture.get_image(), "note": "half way"}, 6)
    board.flush()
    assert [e.step for e in events(tmp_path / "learner_tb_logger").Scalars("loss")] == [3, 5]
    board.close()
    board.close()
    text.close()
    assert "begun" in (tmp_path / "learner_logger.txt").read_text()
    found = events(tmp_path / "learner_tb_logger")
    assert [(e.step, e.value) for e in found.Scalars("loss")] == [(3, 0.5), (5, 0.25)]
    assert [(e.step, e.value) for e in found.Scalars("entropy")] == [(3, 1.25)]
    (histogram,) = found.Histograms("weight")
    assert (histogram.step, histogram.histogram_value.num, histogram.histogram_value.sum) == (5, 3, 12)
    (image,) = found.Images("actions")
    assert (image.step, image.height, image.width) == (6, 2, 4)
    assert found.Tags()["tensors"] == ["note/text_summary"]


def test_scalars_of_one_plot(tmp_path: Path) -> None:
    board = TensorBoardLogger(tmp_path)
    board.register_var("return", "scalars")
    board.print_vars({"return": {"train": 1.0, "eval": 2.0}}, 7)
    board.close()
    assert [e.value for e in events(tmp_path / "default_tb_logger" / "return_eval").Scalars("return")] == [2.0]


def test_no_board_unless_wanted(tmp_path: Path) -> None:
    text, board = build_logger(tmp_path, need_tb=False)
    text.close()
    assert board is None and [p.name for p in tmp_path.iterdir()] == ["default_logger.txt"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda b: b.register_var("a", "scaler"), r"unknown type 'scaler' of 'a'; did you mean 'scalar'\?"),
        (lambda b: b.register_var("loss"), "'loss' is registered already, as scalar"),
        (lambda b: b.print_vars({"loss": 1.0, "los": 1.0}, 1), "'los' is not registered; did you mean 'loss'"),
        (lambda b: b.add_val_list([("loss", 1.0, 1)], "image"), "registered as scalar; it cannot be written as image"),
    ],
)
def test_wrong_use_is_one_clear_sentence_and_writes_nothing(tmp_path: Path, call: Any, message: str) -> None:
    board = TensorBoardLogger(tmp_path)
    board.register_var("loss")
    with pytest.raises(ConfigError, match=message):
        call(board)
    board.close()
    assert events(board.log_dir).Tags()["scalars"] == []
