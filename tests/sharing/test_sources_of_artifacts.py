"""Data that only an artifact names is read if it was trained here, or if the user allows it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from server import serving

from unclip.cli import main
from unclip.common import artifacts, yaml_text
from unclip.data.remote import PUBLIC_ONLY
from unclip.runs import own
from unclip.tracking.files import MARK


@pytest.fixture(params=["evaluate", "fit-variance"])
def command(request):
    """One of the commands that read the data which an artifact was trained on."""
    return request.param


@pytest.fixture(autouse=True)
def _open_again(monkeypatch):
    monkeypatch.setenv(PUBLIC_ONLY, "")


def prior(cascade, folder: Path, data: str, *, made_here: bool) -> Path:
    """A prior whose config reads other data."""
    shutil.copytree(cascade / "prior/artifact", folder / "prior")
    file = folder / "prior/config.yaml"
    config = yaml_text.read_file(file)
    config["data"] = {**config["data"], **yaml_text.read(data)}
    file.write_text(yaml_text.document(config))
    if made_here:
        file = folder / "prior/provenance.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | own.mark(config)))
    return folder / "prior"


def last_line(capsys) -> str:
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    "data",
    [
        "{source: /no/such}",
        "{source: photos}",
        "{source: scenes, embeddings: /no/such}",
        "{source: mixture, mixture: {a: {source: ~/x}}}",
        "{source: 'https://192.0.2.1/a.tar'}",
    ],
)
def test_what_a_stranger_names_is_shown_and_asked_for(cascade, tmp_path, command, data, capsys):
    stranger = prior(cascade, tmp_path, data, made_here=False)
    assert main([command, str(stranger)]) == 2
    line = last_line(capsys)
    assert line.startswith(f"unclip: error: {stranger / 'config.yaml'}: data.")
    assert "add --allow-source" in line


@pytest.mark.parametrize("how", ["made here", "allowed", "typed"])
def test_ones_own_data_is_read_wherever_it_is(cascade, tmp_path, command, how, capsys):
    data = str(tmp_path / "mine")
    trained = prior(cascade, tmp_path, f"{{source: {data}}}", made_here=how == "made here")
    more = {"made here": [], "allowed": ["--allow-source"], "typed": ["--data", data]}[how]
    assert main([command, str(trained), *more]) == 2
    assert f"{data} does not exist" in last_line(capsys)


def test_a_training_marks_its_artifact_and_nobody_else_can(cascade, tmp_path, monkeypatch):
    made = artifacts.describe(cascade / "prior")
    assert own.is_own(made)
    moved = artifacts.describe(prior(cascade, tmp_path, "{source: /etc}", made_here=False))
    assert moved.provenance[MARK] == made.provenance[MARK]
    assert not own.is_own(moved)
    monkeypatch.setenv("UNCLIP_CACHE", str(tmp_path / "another account"))
    assert not own.is_own(made)
    assert own.mark(made.config) != {MARK: made.provenance[MARK]}
    assert own.mark(made.config) == own.mark(made.config)
    key = tmp_path / "another account/account/key"
    assert key.stat().st_mode & 0o077 == 0
    assert [p.name for p in key.parent.iterdir()] == ["key"]


def test_a_training_needs_no_place_for_the_mark(cascade, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("UNCLIP_CACHE", str(tmp_path / "file"))
    assert own.mark(artifacts.describe(cascade / "prior").config) == {}


def test_the_mark_is_not_shared(cascade, tmp_path):
    to = tmp_path / "bundle"
    assert main(["share", str(cascade / "prior"), "--to", str(to), "--weights"]) == 0
    shared = list(to.rglob("provenance.json"))
    assert shared
    assert not any(MARK in file.read_text() for file in shared)


def test_private_addresses_are_not_read_even_when_allowed(cascade, tmp_path, command, capsys):
    with serving() as server:
        data = f"{{source: '{server.url('a.tar')}'}}"
        stranger = prior(cascade, tmp_path, data, made_here=False)
        assert main([command, str(stranger), "--allow-source"]) == 2
        assert "private address" in last_line(capsys)
        assert not server.requests


def stranger_run(cascade, folder: Path, source: str) -> Path:
    """The run of a CLIP that reads ``source``, with the marks of its other data."""
    shutil.copytree(cascade / "clip", folder)
    file = folder / "experiment.yaml"
    config = yaml_text.read_file(file)
    config["data"]["source"] = source
    file.write_text(yaml_text.document(config))
    return folder


@pytest.mark.parametrize("how", ["--resume", "--continue"])
def test_a_strangers_run_is_not_resumed_on_its_data_unasked(
    cascade, minute_experiment, tmp_path, how, capsys
):
    folder, experiment = tmp_path / "run", minute_experiment("clip")
    stranger_run(cascade, folder, "/no/such")
    run = ["train", str(experiment), f"run.dir={folder}", how, "trainer.max_steps=99"]
    assert main(run) == 2
    line = last_line(capsys)
    assert line.startswith(f"unclip: error: {folder / 'experiment.yaml'}: data.source='/no/such'")
    assert "was not begun by you on this machine; add --allow-source" in line
    assert main(["train", str(folder / "experiment.yaml"), how, f"run.dir={folder}"]) == 2
    assert "add --allow-source" in last_line(capsys)
    assert main([*run, "--allow-source"]) == 2
    assert "/no/such does not exist" in last_line(capsys)


def test_what_the_user_names_too_is_not_asked_for(cascade, minute_experiment, tmp_path, capsys):
    folder = stranger_run(cascade, tmp_path / "run", "/no/such")
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        f"extends: {minute_experiment('clip')}\nstage: clip\ndata: {{source: /no/such}}\n"
    )
    for experiment, more in ((minute_experiment("clip"), ["data.source=/no/such"]), (mine, [])):
        words = ["train", str(experiment), f"run.dir={folder}", "--resume", *more]
        assert main([*words, "trainer.max_steps=99"]) == 2
        assert "/no/such does not exist" in last_line(capsys)


def test_data_below_the_working_folder_are_read(
    cascade, minute_experiment, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    words = ["train", str(minute_experiment("clip")), "trainer.max_steps=99", "--resume"]
    for source, said in (("photos", "photos does not exist"), ("../photos", "--allow-source")):
        folder = stranger_run(cascade, tmp_path / f"run{len(source)}", source)
        assert main([*words, f"run.dir={folder}"]) == 2
        assert said in last_line(capsys)


def test_a_run_of_ones_own_is_marked_from_its_start(cascade):
    origin = json.loads((cascade / "clip/provenance.json").read_text())
    config = yaml_text.read_file(cascade / "clip/experiment.yaml")
    assert own.is_marked(origin, config)
    config["data"]["source"] = "/etc"
    assert not own.is_marked(origin, config)
