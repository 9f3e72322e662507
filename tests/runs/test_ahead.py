"""What is said before hours of training begin: which runs, in which order, for how long."""

from __future__ import annotations

import shutil

import pytest

from unclip.cli import main
from unclip.common.errors import UserError
from unclip.config.load import load_experiment
from unclip.runs import recipe as recipes
from unclip.runs import train as training
from unclip.runs.parents import missing_parents, parents


class Started(BaseException):
    """The first training begins."""


@pytest.fixture
def said(tmp_path, monkeypatch, capsys):
    """Runs a command in an empty folder up to its first training; returns what it has said."""
    monkeypatch.chdir(tmp_path)

    def started(*args, **kwargs):
        raise Started

    monkeypatch.setattr(recipes, "run_together", started)
    monkeypatch.setattr("unclip.sweeps.engine.run", started)

    def of(*words) -> list[str]:
        with pytest.raises(Started):
            main(list(words))
        return capsys.readouterr().out.splitlines()

    monkeypatch.setattr(training, "assemble", started)
    return of


def rows(lines):
    return [line.split()[:2] for line in lines if line.startswith("  ") and "plan" not in line]


def test_parents_are_named_in_order_with_their_steps_and_times(said, tmp_path):
    lines = said("train", "prior/ar_tiny", "--with-parents")
    assert lines[0] == "prior/ar_tiny depends on runs that are not there yet. In this order:"
    order = [["train", "clip/tiny"], ["fit-pca", "pca/tiny"], ["train", "prior/ar_tiny"]]
    assert rows(lines) == order
    steps = load_experiment("clip/tiny").config.trainer.max_steps
    assert f"{steps:,} steps of 128 samples" in lines[1]
    assert lines[1].endswith("about a minute on 2 cores")
    assert lines[2].split(maxsplit=2)[2].split("  ") == ["one pass over its samples", "seconds"]


def test_an_override_that_does_not_reach_parents_is_said(said):
    words = ["trainer.max_steps=7", "trainer.seed=3", "model.width=64", "run.dir=mine"]
    lines = said("train", "prior/ar_tiny", "--with-parents", *words)
    (line,) = (line for line in lines if "alone" in line)
    assert line == (
        "trainer.max_steps: for prior/ar_tiny alone; to set it for clip/tiny too, run "
        "`unclip train clip/tiny trainer.max_steps=...` first"
    )  # the seed reaches them, a PCA has no steps, a CLIP no model.width
    assert "7 steps of 128 samples" in lines[3]
    assert lines[3].endswith("not known with these settings")


def test_a_fit_says_so_too(said):
    lines = said("fit-pca", "pca/tiny", "--with-parents")
    assert rows(lines) == [["train", "clip/tiny"], ["fit-pca", "pca/tiny"]]


def test_nothing_is_said_where_nothing_is_missing(cascade, minute_experiment, said):
    given = [f"clip={cascade / 'clip'}", f"pca={cascade / 'pca'}"]
    lines = said("train", str(minute_experiment("ar_prior")), *given, "--with-parents")
    assert not any("depends on" in line for line in lines)


def test_a_recipe_says_what_is_left_of_it(said, cascade, tmp_path, minute_experiment):
    lines = said("recipe", "quickstart", "--dir", "q")
    assert lines[0].startswith("q: 5 stages to train, in this order; those of a number run side")
    assert [line.split()[::2][:2] for line in lines[1:6]] == [
        ["1", "clip/quickstart"],
        ["1", "upsampler/quickstart"],
        ["2", "decoder/quickstart"],
        ["2", "prior/quickstart"],
        ["2", "pca/quickstart"],
    ]


def test_a_recipe_refuses_a_stage_of_other_settings_before_it_trains_any(
    tmp_path, monkeypatch, capsys, cascade, minute_experiment
):
    """Its decoder, which comes after the CLIP, was trained otherwise."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(recipes, "run_together", None)
    shutil.copytree(cascade / "decoder", tmp_path / "q" / "decoder")
    names = {k: str(minute_experiment(k)) for k in ("clip", "prior", "decoder")}
    text = "\n".join(f"{k}: {v}" for k, v in names.items())
    (tmp_path / "mine.yaml").write_text(f"dir: q\n{text}\noverrides: [optim.lr=0.5]\n")
    assert main(["recipe", "mine.yaml"]) == 2
    assert "decoder: holds a finished run with other settings" in capsys.readouterr().err


def test_a_sweep_says_what_a_trial_is_and_trains_first(said):
    lines = said("sweep", "prior_lr", "--count", "2")
    assert lines[0].startswith("prior_lr: each trial runs train prior/")
    assert ["train", "clip/tiny"] in rows(lines)


def test_a_sweep_without_parents_is_refused_before_its_trials(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(
        "method: grid\nmetric: {name: val/loss, goal: minimize}\n"
        "parameters: {optim.lr: {values: [0.1]}}\n"
        "command: [unclip, train, prior/tiny, '${args_no_hyphens}']\n"
    )
    assert main(["sweep", "mine.yaml", "--dir", "s"]) == 2
    assert "clip=clip/tiny: no finished run in runs/clip/tiny; run" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_what_is_missing_is_what_is_made(tmp_path, monkeypatch):
    """The list and the work agree."""
    monkeypatch.chdir(tmp_path)
    resolved = load_experiment("prior/ar_tiny", ["trainer.seed=5", "data.source=photos"])
    made = []

    def make(parent):
        made.append(parent)
        return tmp_path

    parents(resolved, make=make)
    listed = missing_parents(resolved)
    assert [p.name for p in listed] == [p.name for p in made] == ["clip/tiny", "pca/tiny"]
    for one, two in zip(listed, made):
        assert {**one.as_dict(), "clip": ""} == {**two.as_dict(), "clip": ""}
        assert (two.config.trainer.seed, two.config.data.source) == (5, "photos")
    with pytest.raises(UserError, match="is fitted, not trained"):
        parents(load_experiment("pca/tiny"))
