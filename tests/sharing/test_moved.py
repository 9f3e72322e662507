"""A cascade that was moved is shared and evaluated as before; what is missing is named."""

from __future__ import annotations

import json
import shutil

import pytest

from unclip.cli import main
from unclip.common import yaml_text


@pytest.fixture
def moved(cascade, tmp_path):
    """The cascade, in another place than its configs say."""
    folder = tmp_path / "new"
    for stage in ("clip", "pca", "prior", "ar_prior"):
        shutil.copytree(cascade / stage, folder / stage)
        file = folder / stage / "artifact/config.yaml"
        config = yaml_text.read_file(file)
        named = [key for key in ("clip", "pca") if isinstance(config.get(key), str)]
        gone = {key: str(tmp_path / "old" / key) for key in named}
        file.write_text(yaml_text.document(config | gone))
    return folder


def error(capsys, *words) -> str:
    assert main([str(word) for word in words]) == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("stage", ["prior", "ar_prior"])
@pytest.mark.parametrize("artifact", ["", "artifact"])
def test_one_run_of_it_is_shared_with_its_parents(moved, tmp_path, stage, artifact):
    to = tmp_path / "bundle"
    assert main(["share", str(moved / stage / artifact), "--to", str(to), "--weights"]) == 0
    weights = json.loads((to / "manifest.json").read_text())["weights"]
    for parent in ("clip", "pca")[: 1 if stage == "prior" else 2]:
        header = json.loads((moved / parent / "artifact/artifact.json").read_text())
        assert weights[parent] == header["sha256"]


def test_from_inside_the_run_too(moved, tmp_path, monkeypatch):
    monkeypatch.chdir(moved / "pca")
    assert main(["share", ".", "--to", str(tmp_path / "bundle")]) == 0
    said = json.loads((tmp_path / "bundle/manifest.json").read_text())
    assert said["experiment"] == "pca/pca"


@pytest.mark.parametrize("command", ["share", "evaluate"])
def test_a_parent_that_is_nowhere_is_named_with_the_way(moved, tmp_path, capsys, command):
    shutil.rmtree(moved / "clip")
    more = ["--to", tmp_path / "bundle"] if command == "share" else ["--n", "2"]
    line = error(capsys, command, moved / "prior", *more)
    assert f"clip={tmp_path / 'old/clip'}: no such artifact, and none in {moved / 'clip'}" in line
    assert "copy the clip that it was trained with" in line
    assert ("--clip" in line) == (command == "evaluate")


def test_evaluate_finds_it(moved, capsys):
    assert main(["evaluate", str(moved / "prior"), "--n", "2"]) == 0


@pytest.mark.parametrize("parent", ["clip", "pca"])
def test_what_lies_beside_must_have_the_weights(moved, minute_experiment, tmp_path, capsys, parent):
    shutil.rmtree(moved / parent)
    other = "trainer.seed=5" if parent == "clip" else "pca.components=5"
    verb = "train" if parent == "clip" else "fit-pca"
    clip = [] if parent == "clip" else [f"clip={moved / 'clip'}"]
    words = [verb, minute_experiment(parent), other, *clip, f"run.dir={moved / parent}"]
    assert main([str(word) for word in words]) == 0
    line = error(capsys, "share", moved / "ar_prior", "--to", tmp_path / "bundle")
    assert f"is not the {parent.upper()} that" in line


def test_what_is_no_run_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    line = error(capsys, "share", ".", "--to", "bundle")
    assert line.startswith("unclip: error: RUN=.: holds no run, cascade or artifact; name")
    (tmp_path / "experiment.yaml").write_text("stage: clip\n")
    line = error(capsys, "share", ".", "--to", "bundle")
    assert "the run has not finished" in line
    assert "unclip train experiment.yaml --resume" in line
