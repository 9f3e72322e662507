"""What is mistyped or damaged is named in one line that helps."""

from __future__ import annotations

import json

import pytest

from unclip.cli import main, train
from unclip.common.errors import UserError
from unclip.config.load import load_experiment

SAID = {
    ("sample", "a", "--out", ""): "--out: must not be empty",
    ("sample", "a", "--out="): "--out: must not be empty",
    ("data", "inspect", "scenes", "--out", ""): "--out: must not be empty",
    ("recipe", "quickstart", "--dir", ""): "--dir: must not be empty",
    ("share", "none", "--to", ""): "--to: must not be empty",
    ("embed", "scenes", "--clip", "", "--out", "x"): "--clip: must not be empty",
    ("train", "clip/tiny", "run.dir="): "run.dir: must name a folder",
    ("train", "clip/tiny", "run.root="): "run.root: must name a folder",
    ("train", "prior/tiny", "init="): "init: must name weights, or be null",
    ("train", "prior/tiny", "data.embeddings="): "data.embeddings: must name a folder",
    ("train", "clip/tiny", "model.text_heads=0"): "model.text_heads=0: must be at least 1",
    ("recipe", "nope"): "see `unclip recipe --list`",
    ("recipe", "quickstar"): "did you mean 'recipes/quickstart'?",
    ("train", "prior/zzzz"): "see `unclip experiments list`",
    ("train", "prior/tinny"): "did you mean 'prior/tiny'?",
    ("evaluate", "images", "x", "--features", "own:x"): "--features own:x: no such artifact",
    ("evaluate", "images", "x", "--features", "own:a:b"): "--features own:a:b: no such artifact",
    ("evaluate", "images", "x", "--features=own:x"): "--features own:x: no such artifact",
    ("evaluate", "images", "x", "--features", "own:"): "--features 'own:': write own:PATH",
    ("evaluate", "images", "x", "--features", "clip:"): "--features 'clip:': write clip:ARCH/TAG",
    ("evaluate", "images", "x", "--features", "clip:ViT-L-1"): "did you mean 'ViT-L-1",
    ("evaluate", "images", "x", "--features", "clip:x"): "; write clip:ARCH/TAG",
    ("embed", "scenes", "--clip", "open_clip:", "--out", "o"): "write open_clip:ARCH/TAG",
    ("train", "clip/tiny", "data.source:x"): "did you mean data.source=x?",
    ("train", "clip/tiny", "optim.lr:3e-4"): "did you mean optim.lr=3e-4?",
    ("share", "none", "--to", "s3://bucket/x"): "--to s3://bucket/x: s3:// is not supported",
}


@pytest.mark.parametrize("words", SAID)
def test_a_slip_is_named_in_one_line(words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(list(words)) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert SAID[words] in line
    assert list(tmp_path.iterdir()) == []


def test_what_a_file_extends_is_named_as_it_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text("extends: nofile.yaml\n")
    with pytest.raises(UserError, match=r"^x.yaml: extends: nofile.yaml: no such experiment file$"):
        load_experiment("x.yaml")


def test_a_library_that_does_not_fit_into_memory_is_one_line(monkeypatch, capsys):
    def fails(args):
        raise ImportError("libtorch.so: failed to map segment from shared object")

    monkeypatch.setattr(train, "run", fails)
    assert main(["train", "clip/tiny"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "failed to map segment" in line
    assert "memory limit" in line


@pytest.mark.parametrize("words", [["list", "--root", "."], ["show", "run", "--root", "."]])
def test_damaged_files_of_a_run_are_named(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/experiment.yaml").write_text("stage: clip\n")
    (tmp_path / "run/summary.json").write_text('{"steps": 3')
    (tmp_path / "run/provenance.json").write_text(json.dumps([1]))
    assert main(["runs", *words]) == 0
    said = capsys.readouterr().err
    assert "run/summary.json: is not JSON" in said
    assert "run/provenance.json: is not a JSON object" in said


def test_a_fitted_run_is_never_said_to_be_resumable(
    tmp_path, monkeypatch, cascade, minute_experiment, capsys
):
    monkeypatch.chdir(tmp_path)
    words = [str(minute_experiment("pca")), f"clip={cascade / 'clip'}"]
    assert main(["fit-pca", *words, f"run.dir={cascade / 'clip'}"]) == 2
    assert "--resume" not in capsys.readouterr().err
