"""What strangers wrote reaches a terminal as text, in every command that prints it."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from functools import partialmethod
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_data import records, write_coco, write_members, write_tar
from tqdm import tqdm

import unclip
from unclip.cli import main
from unclip.common import tables
from unclip.common.terminal import visible

EVIL = "a\x1b]0;owned\x07\x1b[2J\r\x9b31m\u202eb\nforged"
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
    assert harmless(text)
    return text


def harmless(text: str) -> bool:
    return not OBEYED.search(text) and not any(
        line.startswith("forged") for line in text.splitlines()
    )


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


def test_json_with_such_names_can_still_be_read(hostile, capsys):
    main(["runs", "list", "--json"])
    text = capsys.readouterr().out
    assert harmless(text)
    assert [Path(each["folder"]).name for each in json.loads(text)] == [EVIL]


def test_nothing_is_printed_but_by_say():
    root = Path(unclip.__file__).parents[2]
    for file in (*(root / "src").rglob("*.py"), *(root / "data_modules").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            raw = called in ("print", "sys.stdout.write", "sys.stderr.write")
            assert not raw or file.name == "terminal.py", f"{file}:{node.lineno}"


LOGGED = """
import logging, sys, warnings
from unclip.cli import streams
streams.prepare()
evil = sys.argv[1]
for _ in range(2):
    logging.getLogger("unclip.data.skips").warning("skipped %s", evil)
    logging.getLogger("data_modules.base").warning(evil)
    warnings.warn(evil.replace("\\n", " "))
    logging.basicConfig(stream=sys.stdout)  # what a library may do
logging.getLogger("somebody").warning("two\\nlines")
"""


def test_what_is_logged_is_text_whoever_writes_it_out():
    done = subprocess.run(
        [sys.executable, "-c", LOGGED, EVIL], capture_output=True, text=True, check=True
    )
    for text in (done.stdout, done.stderr):
        assert harmless(text)
        assert "\\x1b]0;owned\\x07" in text
        assert "\\nforged" in text
    assert done.stdout.endswith("two\nlines\n")


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """Sources of which something is logged that their files say; no bars, which redraw lines."""
    monkeypatch.setattr(tqdm, "__init__", partialmethod(tqdm.__init__, disable=True))
    monkeypatch.chdir(tmp_path)
    evil = EVIL.replace("/", "")
    rows = records(3)
    for folder in (evil, "c", f"coco/{evil}"):
        (tmp_path / folder).mkdir(parents=True)
    for name in "ab":
        write_tar(tmp_path / evil / f"{name}.tar", [(evil, *rest) for _, *rest in rows[:1]])
    broken = [(f"{evil}.png", b"no image"), (f"{evil}.txt", b"a")]
    write_members(tmp_path / "c" / "broken.tar", broken)
    write_coco(tmp_path / "coco" / evil, rows)
    return {"repeated": evil, "broken": "c/broken.tar", "coco": f"coco/{evil}"}


@pytest.mark.parametrize("kind", ["repeated", "broken", "coco"])
def test_data_of_strangers_are_logged_as_text(sources, kind, capsys, caplog):
    words = ("inspect", sources[kind], "--workers", "0")
    run(capsys, "data", *words)
    run(capsys, "data", "pack", sources[kind], "--out", f"packed-{kind}", "data.on_error=skip")
    assert harmless(caplog.text)
    if kind == "repeated":
        assert "keys repeat" in caplog.text


def test_errors_of_the_system_name_files_as_text(monkeypatch, capsys):
    def fails(argv):
        raise OSError(28, "No space left on device", EVIL)

    monkeypatch.setattr("unclip.cli._parse", fails)
    run(capsys)
