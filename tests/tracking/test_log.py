"""The log has what the terminal shows, in lines that one can read."""

from __future__ import annotations

import logging
import sys

import pytest
from tqdm import tqdm

from unclip.common.errors import UserError
from unclip.tracking import log


def lines(folder):
    return (folder / log.FILE).read_text().splitlines()


def test_both_streams_and_logging_are_kept(tmp_path, capsys, monkeypatch):
    logger = logging.getLogger("unclip.test")
    monkeypatch.setattr(logger, "propagate", False)  # pytest listens at the root
    with log.tee_log(tmp_path, "unclip train"):
        print("one")
        print("two", file=sys.stderr)
        logger.warning("skipped three")
    kept = lines(tmp_path)
    assert kept[0].endswith(" unclip train")
    assert kept[1:4] == ["one", "two", "skipped three"]
    assert kept[4].endswith(" finished")
    assert capsys.readouterr() == ("one\n", "two\nskipped three\n")


def test_a_bar_is_one_line_without_control_characters(tmp_path):
    with log.tee_log(tmp_path, "start"):
        for _ in tqdm(range(3), desc="drawing", mininterval=0, file=sys.stderr):
            pass
        sys.stdout.write("\x1b[31mred\x1b[0m\n10 %\r")
        sys.stdout.write("20 %\r\n")
    kept = lines(tmp_path)
    assert len(kept) == 5
    assert kept[1].startswith("drawing: 100%")
    assert kept[2:4] == ["red", "20 %"]


def test_it_says_how_it_ended_and_a_second_start_is_appended(tmp_path):
    before = sys.stdout, sys.stderr
    with pytest.raises(UserError), log.tee_log(tmp_path, "first"):
        raise UserError("data.source: gone")
    with pytest.raises(ZeroDivisionError), log.tee_log(tmp_path, "second"):
        1 / 0
    assert (sys.stdout, sys.stderr) == before
    kept = lines(tmp_path)
    assert kept[1] == "data.source: gone"
    assert kept[2].endswith("ended by UserError")
    assert kept[3].endswith("second")
    assert kept[-2] == "ZeroDivisionError: division by zero"
