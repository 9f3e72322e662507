"""An error that nobody has foreseen is one line too, and its traceback is kept."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest

from unclip.cli import experiments, main


@pytest.fixture
def broken(monkeypatch, tmp_path):
    def run(args):
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr(experiments, "list_", run)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return ["experiments", "list"]


def test_the_line_says_where_the_traceback_is(broken, tmp_path, capsys):
    assert main(broken) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert said.err.startswith("unclip: error: ZeroDivisionError: division by zero: this is a bug")
    (file,) = map(Path, re.findall(r"\S+\.txt", said.err))
    assert file.parent == tmp_path
    text = file.read_text()
    assert text.startswith("unclip ")
    assert "Traceback (most recent call last)" in text
    assert "raise ZeroDivisionError" in text


def test_where_nothing_can_be_written_it_is_still_one_line(broken, monkeypatch, capsys):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", full)
    assert main(broken) == 1
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "could not be written (No space left on device)" in line
