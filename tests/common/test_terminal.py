"""What strangers wrote reaches a terminal as text, in every command that prints it."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unclip.cli import main
from unclip.common import tables
from unclip.common.terminal import visible

EVIL = "a\x1b]0;owned\x07\x1b[2J\r\x9b31m\u202eb"
OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@given(st.text())
def test_nothing_that_a_terminal_obeys_is_left(text):
    one, many = visible(text), visible(text, lines=True)
    assert not OBEYED.search(one + many)
    assert len(one.splitlines()) <= 1
    assert visible(one) == one
    if text.isprintable():
        assert one == text


@given(st.lists(st.lists(st.text(max_size=8), min_size=2, max_size=2), min_size=1, max_size=3))
def test_tables_show_cells_as_text(lines):
    assert len(tables.markdown(lines).splitlines()) == len(lines) + 1
    assert "<" not in tables.markdown(lines)


def run(capsys, *words: str) -> str:
    main([str(word) for word in words])
    said = capsys.readouterr()
    text = said.out + said.err
    assert text
    assert not OBEYED.search(text)
    return text


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """A working folder whose experiments and runs have names and contents that would be obeyed."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "experiments/clip"
    folder.mkdir(parents=True)
    quoted = json.dumps(EVIL)
    (folder / f"{EVIL}.yaml").write_text("stage: clip\n")
    (folder / "about.yaml").write_text(f"stage: clip\nabout: {quoted}\n")
    (folder / "key.yaml").write_text(f"stage: clip\n{quoted}: 1\n")
    (folder / "stage.yaml").write_text(f"stage: {quoted}\n")
    (folder / "raw.yaml").write_text(f"stage: clip\nabout: {EVIL}\n")
    run_ = tmp_path / "runs/clip" / EVIL
    run_.mkdir(parents=True)
    (run_ / "experiment.yaml").write_text("stage: clip\n")
    (run_ / "status.json").write_text(json.dumps({"status": EVIL, "why": EVIL}))
    (run_ / "summary.json").write_text(json.dumps({"experiment": EVIL, EVIL: EVIL}))
    (run_ / "provenance.json").write_text(json.dumps({"experiment": EVIL, "machine": EVIL}))
    (run_ / "metrics.jsonl").write_text(json.dumps({"step": 1, EVIL: 2.0}) + "\n")
    (run_ / EVIL.replace("/", "")).touch()
    return tmp_path


def test_experiments_and_runs_print_no_escapes(hostile, capsys):
    run(capsys, "experiments", "list")
    for name in (EVIL, "about", "key", "stage", "raw"):
        run(capsys, "experiments", "show", f"clip/{name}")
        run(capsys, "experiments", "validate", f"clip/{name}")
    run(capsys, "runs", "list")
    run(capsys, "runs", "show", hostile / "runs/clip" / EVIL)
    run(capsys, "train", EVIL)
    run(capsys, "train", "clip/tiny", f"data.source={EVIL}", f"{EVIL}=1")
    run(capsys, "sample", "--pipeline", EVIL, "x")
    run(capsys, "reproduce", EVIL)
    run(capsys, "data", "inspect", EVIL)
