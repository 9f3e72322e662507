"""What a run measures, line by line in its own folder."""

from __future__ import annotations

import math

import pytest

from unclip.common.errors import UserError
from unclip.tracking.files import EXPERIMENT, read_metrics
from unclip.tracking.local import JsonlLogger


@pytest.fixture
def logger(tmp_path):
    (tmp_path / EXPERIMENT).write_text("stage: clip\n")
    return JsonlLogger(tmp_path)


def test_what_had_no_samples_and_lightnings_epoch_are_left_out(logger):
    logger.log_metrics({"train/loss": 0.5, "val/loss": math.nan, "epoch": 3}, step=7)
    (line,) = read_metrics(logger.path)
    assert line.pop("time") > 0
    assert line == {"step": 7, "train/loss": 0.5}


def test_a_run_resumed_after_two_steps_has_logged_two(logger):
    for done in range(4):  # training logs the step to come, validation the steps done
        logger.log_metrics({"train/loss": 1.0}, step=done)
        logger.log_metrics({"lr-AdamW": 1e-4}, step=done)
        logger.log_metrics({"val/loss": 1.0}, step=done + 1)
    logger.forget_after(2, val_every=100)
    kept = [(line["step"], line.keys() - {"step", "time"}) for line in read_metrics(logger.path)]
    assert kept == [
        (0, {"train/loss"}),
        (0, {"lr-AdamW"}),
        (1, {"val/loss"}),
        (1, {"train/loss"}),
        (1, {"lr-AdamW"}),
        (2, {"val/loss"}),
    ]


def test_a_run_without_measurements_has_nothing_to_forget(logger):
    logger.forget_after(2, val_every=100)
    assert not logger.path.exists()


def test_a_folder_that_is_being_removed_gets_no_new_file(logger):
    (logger.path.parent / EXPERIMENT).unlink()
    with pytest.raises(UserError, match="was removed or moved"):
        logger.log_metrics({"train/loss": 1.0}, step=1)
    assert list(logger.path.parent.iterdir()) == []


def test_measurements_that_are_gone_are_missed_aloud(logger, capsys):
    logger.forget_after(0, val_every=100)
    assert capsys.readouterr().err == ""
    logger.forget_after(2, val_every=100)
    assert capsys.readouterr().err == (
        f"unclip: note: {logger.path}: is not there; begins at step 2\n"
    )
