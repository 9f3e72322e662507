"""Damaged lines of a metrics.jsonl: one notice, and the rest is used, whatever reads it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from unclip.cli import main
from unclip.config.load import load_experiment
from unclip.evaluation.protocols import training
from unclip.runs.train import train
from unclip.sharing import compare
from unclip.tracking.files import read_metrics
from unclip.tracking.report import Finished

GOOD = [{"step": step, "time": 1.0, "train/loss": 0.5 + step} for step in range(3)]
DAMAGED = {
    "cut": b'{"step": 3, "train/lo',
    "no JSON": b"step 3",
    "a list": b"[3]",
    "a number": b"3",
    "binary": bytes(range(14, 256)),
    "a step of another kind": b'{"step": "3", "train/loss": 1}',
    "a huge step": b'{"step": ' + b"9" * 300 + b', "train/loss": 1}',
    "a negative step": b'{"step": -3, "train/loss": 1}',
    "deep": b"[" * 100_000,
}
ODD = {  # whole lines, of which one value says nothing
    "NaN": b'{"step": 3, "train/loss": NaN}',
    "text": b'{"step": 3, "train/loss": "low"}',
    "null": b'{"step": 3, "train/loss": null}',
    "huge": b'{"step": 3, "train/loss": ' + b"9" * 400 + b"}",
    "no step": b'{"step": null, "train/acc": 1.0}',
}


def write(file: Path, line: bytes, *, at: int) -> None:
    lines = [json.dumps(row).encode() for row in GOOD]
    file.write_bytes(b"\n".join([*lines[:at], line, *lines[at:]]))


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two runs, each with three good lines."""
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "experiment.yaml").write_text("stage: clip\n")
        write(tmp_path / name / "metrics.jsonl", b"", at=3)
    return tmp_path


@pytest.mark.parametrize("at", [0, 3])
@pytest.mark.parametrize("kind", DAMAGED | ODD)
def test_runs_are_compared_by_the_rest(runs, capsys, kind, at):
    write(runs / "a/metrics.jsonl", (DAMAGED | ODD)[kind], at=at)
    assert main(["runs", "compare", "a", "b"]) == 0
    said = capsys.readouterr()
    notices = [line for line in said.err.splitlines() if "damaged" in line]
    left_out = f"a/metrics.jsonl: left out: 1 of 4 lines, line {at + 1} first"
    assert notices == ([f"unclip: damaged: {left_out}"] if kind in DAMAGED else [])
    (row,) = (line.split() for line in said.out.splitlines() if line.startswith("train/loss"))
    assert row == ["train/loss", "2.5", "2.5"]


def test_one_that_cannot_be_read_is_named(runs, capsys):
    (runs / "a/metrics.jsonl").unlink()
    (runs / "a/metrics.jsonl").mkdir()
    assert main(["runs", "compare", "a", "b"]) == 0
    assert "damaged: a/metrics.jsonl: Is a directory" in capsys.readouterr().err
    assert main(["runs", "show", "a"]) == 0
    assert "damaged: a/metrics.jsonl: Is a directory" in capsys.readouterr().err


@pytest.mark.parametrize("kind", DAMAGED | ODD)
def test_curves_are_of_the_rest(runs, kind):
    file = runs / "a/metrics.jsonl"
    write(file, (DAMAGED | ODD)[kind], at=1)
    found = compare.series_of(read_metrics(file))
    assert found["train/loss"] == {0: 0.5, 1: 1.5, 2: 2.5}
    drawn = training.curves([Finished(runs / "a", runs, {"experiment": "a"})], runs / "a.png")
    assert drawn.stat().st_size


def spoilt(cascade: Path, folder: Path) -> Path:
    """A run of the cascade with all that can be wrong with metrics, and with its best.json."""
    shutil.copytree(cascade / "clip", folder)
    with (folder / "metrics.jsonl").open("ab") as file:
        for line in (*DAMAGED.values(), *ODD.values()):
            file.write(line + b"\n")
    (folder / "checkpoints/best.json").write_text('{"step": "3"')
    return folder


def test_a_bundle_has_the_rest(cascade, tmp_path, capsys):
    run = spoilt(cascade, tmp_path / "run")
    to = tmp_path / "bundle"
    assert main(["share", str(run), "--to", str(to)]) == 0
    (notice,) = (line for line in capsys.readouterr().err.splitlines() if "damaged" in line)
    assert f"{run / 'metrics.jsonl'}: left out: {len(DAMAGED)} of" in notice
    shared = [row for row in read_metrics(to / "metrics.jsonl") if row != {"step": 3}]
    assert shared == read_metrics(cascade / "clip/metrics.jsonl")


def test_a_resume_keeps_the_rest(cascade, minute_experiment, tmp_path, capsys):
    run = spoilt(cascade, tmp_path / "run")
    given = [f"run.dir={run}", "trainer.max_steps=4"]
    train(load_experiment(str(minute_experiment("clip")), given), resume=True)
    said = capsys.readouterr().err
    assert f"{run / 'metrics.jsonl'}: left out: {len(DAMAGED)} of" in said
    before = [row for row in read_metrics(cascade / "clip/metrics.jsonl") if "train/loss" in row]
    now = [row for row in read_metrics(run / "metrics.jsonl") if "train/loss" in row]
    assert [row for row in now if row in before] == before
    assert max(row["step"] for row in now) == 3
