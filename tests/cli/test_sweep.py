"""`unclip sweep` as a user types it."""

from __future__ import annotations

import json
import re
import sys
from types import SimpleNamespace

import pytest
import yaml

from unclip.cli import main

ARGS = "${args_no_hyphens}"


@pytest.fixture
def refused(capsys):
    def call(*words):
        assert main(["sweep", *map(str, words)]) == 2
        error = capsys.readouterr().err.strip()
        assert error.startswith("unclip: error: ")
        assert len(error.splitlines()) == 1
        return error

    return call


def test_the_list_says_what_each_is_for(capsys):
    assert main(["sweep", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    line = next(line for line in lines if line.startswith("prior_lr "))
    assert line.split()[:4] == ["prior_lr", "bayes", "max", "val/cosine"]
    assert line.endswith("learning rate and width of the diffusion prior")
    assert any(line.startswith("sampling ") for line in lines)


def test_the_columns_of_the_list_are_aligned(capsys):
    assert main(["sweep", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    cells = [re.split("  +", line) for line in lines]
    assert len(lines) > 2
    assert {len(each) for each in cells} == {4}
    for column in range(4):
        starts = {line.index(each[column]) for line, each in zip(lines, cells)}
        assert len(starts) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no sweep: give one, as `unclip sweep prior_lr`, or --list"),
        (["prior_lr"], "--count: bayes search has no end; say how many trials"),
        (["prior_lr", "--count", "0"], "--count and --jobs must be at least 1"),
        (["prior_lr", "--count", "1", "--jobs", "0"], "--count and --jobs must be at least 1"),
        (["prior_lt", "--count", "1"], "no such sweep; did you mean 'prior_lr'?"),
        (["prior_lr", "--count", "1", "optim.lr=1"], "optim.lr: is searched; leave it out"),
        (["prior_lr", "--count", "1", "optm.lr=1"], "optm: unknown key; did you mean 'optim'?"),
        (["prior_lr", "--wandb", "--dir", "x"], "--dir: is for local sweeps, not with --wandb"),
        (["prior_lr", "--wandb", "--force"], "--force: is for local sweeps, not with --wandb"),
        (["prior_lr", "--wandb", "--jobs", "2"], "--jobs: is for local sweeps, not with --wandb"),
        (["prior_lr", "--wandb", "--seed", "2"], "--seed: is for local sweeps, not with --wandb"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_made(
    refused, tmp_path, monkeypatch, words, message
):
    monkeypatch.chdir(tmp_path)
    assert message in refused(*words)
    assert not list(tmp_path.iterdir())


def test_force_removes_sweeps_only(refused, tmp_path):
    (tmp_path / "precious").write_text("")
    error = refused("prior_lr", "--count", "1", "--force", "--dir", tmp_path)
    assert "is not empty and holds no sweep; give another" in error
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_a_folder_that_holds_something_else_is_refused(refused, tmp_path):
    (tmp_path / "precious").write_text("")
    error = refused("prior_lr", "--count", "1", "--dir", tmp_path)
    assert "is not empty and holds no sweep" in error


def test_with_wandb_the_file_goes_there_with_the_overrides(monkeypatch):
    calls = []

    def create(content, *, project, entity):
        calls.append((content, project, entity))
        return "me/unclip/abc"

    fake = SimpleNamespace(create=create, run_agent=lambda *words: calls.append(words))
    monkeypatch.setitem(sys.modules, "unclip.sweeps.online", fake)
    assert main(["sweep", "prior_lr", "--wandb", "--count", "3", "trainer.max_steps=5"]) == 0
    (content, project, entity), agent = calls
    assert content["method"] == "bayes"
    assert content["command"][-3:] == ["tracking.wandb=true", "trainer.max_steps=5", ARGS]
    assert (project, entity) == ("unclip", None)
    assert agent == ("me/unclip/abc", 3)


@pytest.mark.slow
def test_a_sweep_of_real_trainings(minute_experiment, tmp_path, capfd):
    """Two learning rates, and two numbers of heads of which one cannot be; in two goes."""
    file = tmp_path / "rates.yaml"
    content = {
        "method": "grid",
        "metric": {"name": "val/loss"},
        "parameters": {
            "optim.lr": {"values": [1e-3, 1e-2]},
            "model.text_heads": {"values": [2, 3]},
        },
        "command": ["python", "-m", "unclip", "train", str(minute_experiment("clip")), ARGS],
    }
    file.write_text(yaml.safe_dump(content))
    words = ["sweep", str(file), "--dir", str(tmp_path / "s"), "trainer.max_steps=2"]
    assert main([*words, "--count", "3"]) == 0  # one of them can be, at the least
    assert main([*words, "--jobs", "2"]) == 0
    said = capfd.readouterr().out
    trials = json.loads((tmp_path / "s" / "results.json").read_text())["trials"]
    states = {(t["parameters"]["optim.lr"], t["parameters"]["model.text_heads"]): t for t in trials}
    assert len(trials) == len(states) == 4
    for (lr, heads), trial in states.items():
        folder = tmp_path / "s" / trial["folder"]
        if heads == 3:
            assert "model.text_heads=3: does not divide" in trial["error"]
            continue
        summary = json.loads((folder / "summary.json").read_text())
        assert trial["value"] == summary["metrics"]["val/loss"] == trial["history"][-1]
        assert yaml.safe_load((folder / "experiment.yaml").read_text())["optim"]["lr"] == lr
        assert summary["steps"] == 2
    assert "best: trial" in said
    assert (tmp_path / "s" / "sweep.png").is_file()
