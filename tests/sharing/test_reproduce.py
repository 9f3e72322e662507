"""Runs of a bundle made again: the same bits, or what is different and since when."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from PIL import Image

from tests.sharing.conftest import seal, zipped
from unclip.cli import main
from unclip.sharing import rerun

EXPERIMENT, TWIN = "experiment.yaml", "artifact/config.yaml"


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty folder to work in, and training in this process: it has imported everything."""
    commands = []

    def command(words, variables):
        commands.append((words, dict(variables)))
        assert main(words) == 0

    monkeypatch.setattr(rerun, "in_a_process", command)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return commands


def bundle(members, tmp_path):
    return str(zipped(members, tmp_path / "bundle.zip"))


def error(capsys, *words) -> str:
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def report(folder):
    return json.loads((folder / "report.json").read_text())


def test_an_experiment_alone_gives_the_same_bits(packed, tmp_path, elsewhere, capsys):
    place = bundle(packed("ar_prior", weights=False), tmp_path)
    assert main(["reproduce", place]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("bit-identical")
    assert [words[0] for words, _ in elsewhere] == ["train", "fit-pca", "train"]
    found = report(tmp_path / "elsewhere" / "runs" / "reproduced" / "bundle")
    assert found["verdict"] == "bit-identical"
    assert found["changed"] == {}
    rows = [*found["parents"], *found["metrics"], *found["weights"]]
    names = {row["name"] for row in rows}
    assert {"clip", "pca", "weights", "train/loss", "val/loss", "val/cosine"} <= names
    assert {row["verdict"] for row in rows} == {"bit-identical"}
    assert not names & {"time", "samples_per_second", "data_wait", "peak_memory_gib", "seconds"}


def test_a_changed_field_is_named_and_results_differ(packed, tmp_path, elsewhere, capsys):
    place = bundle(packed(), tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["reproduce", place, "--dir", "out", "optim.lr=0.002"])
    assert ended.value.code == 1
    lines = capsys.readouterr().out.splitlines()
    assert "changed by you: optim.lr=0.001 -> 0.002" in lines
    assert lines[-1] == "results differ; changed by you: optim.lr"
    assert [words[0] for words, _ in elsewhere] == ["train"]  # the CLIP's weights are inside
    found = report(tmp_path / "elsewhere" / "out")
    assert found["verdict"] == "different"
    assert found["changed"] == {"optim.lr": {"then": 0.001, "now": 0.002}}
    rows = {row["name"]: row for row in (*found["parents"], *found["metrics"], *found["weights"])}
    assert rows["clip"]["verdict"] == "bit-identical"
    assert rows["train/loss"]["first"] == 1  # step 0 is before the first update
    assert rows["weights"]["distance"] > 0


@pytest.mark.slow
def test_it_goes_on_where_it_stopped(packed, tmp_path, elsewhere, capsys):
    place = bundle(recorded(packed(), torch_threads=1), tmp_path)
    words = ["reproduce", place, "--dir", "out"]
    assert main(words) == 0
    assert main(words) == 0
    ((_, variables),) = elsewhere  # the finished run was kept
    assert variables == {"OMP_NUM_THREADS": "1"}  # as many as then
    assert "--dir out: holds something else" in error(capsys, *words, "optim.lr=1")
    (tmp_path / "elsewhere" / "mine").mkdir()
    (tmp_path / "elsewhere" / "mine" / "letter").write_text("dear")
    assert "name another folder" in error(capsys, "reproduce", place, "--dir", "mine")
    assert [p.name for p in (tmp_path / "elsewhere" / "mine").iterdir()] == ["letter"]


@pytest.mark.slow
def test_an_extended_run_gives_the_same_bits(minute_experiment, tmp_path, elsewhere, capsys):
    """The cosine schedule fell to its end twice, and the run validated where it had ended."""
    words = ["train", str(minute_experiment("clip")), f"run.dir={tmp_path / 'run'}"]
    few = ["trainer.val_every=2", "trainer.log_every=2", "optim.schedule=cosine"]
    assert main([*words, *few, "trainer.max_steps=3"]) == 0
    assert main([*words, "--resume", "trainer.max_steps=7"]) == 0
    assert main(["share", str(tmp_path / "run"), "--to", "b.zip"]) == 0
    assert main(["reproduce", "b.zip", "--dir", "out"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("resumed at step 3:") for line in lines)
    found = report(tmp_path / "elsewhere" / "out")
    assert (found["verdict"], found["resumed"], found["extended"]) == ("bit-identical", [3], [3])
    assert {row["verdict"] for row in found["metrics"]} == {"bit-identical"}
    assert [w[-2] for w, _ in elsewhere] == ["trainer.max_steps=3", "trainer.max_steps=7"]
    assert main(["reproduce", "b.zip", "--dir", "out"]) == 0
    assert len(elsewhere) == 2  # the finished run was kept
    with pytest.raises(SystemExit):  # in one go it is another run
        main(["reproduce", "b.zip", "--dir", "other", "trainer.max_steps=7"])
    assert report(tmp_path / "elsewhere" / "other")["extended"] == []


def test_a_check_trains_and_leaves_nothing(packed, tmp_path, elsewhere, capsys):
    place = bundle(packed(), tmp_path)
    assert main(["reproduce", place, "--dir", "out", "--check-only"]) == 0
    verified, *facts = capsys.readouterr().out.splitlines()
    assert verified == "verified: every file is what the manifest says"
    # Of the code more may be said: somebody may be working on it while its tests run.
    assert all(line.startswith(("nothing differs", "differs ", "git_")) for line in facts)
    assert main(["reproduce", place, "--check-only"]) == 0
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert elsewhere == []


def recorded(members, **fields):
    changed = json.dumps(json.loads(members["provenance.json"]) | fields).encode()
    return seal({**members, "provenance.json": changed, "artifact/provenance.json": changed})


def test_what_differs_from_then_is_said(packed, tmp_path, elsewhere, capsys):
    members = recorded(packed(), python="2.7.18", packages={"torch": "0.1"}, data_fingerprint="a")
    assert main(["reproduce", bundle(members, tmp_path), "--check-only"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["python", "2.7.18"] in [row[:2] for row in rows]
    assert ["packages.torch", "0.1"] in [row[:2] for row in rows]
    assert ["data", "fingerprint", "a"] in [row[:3] for row in rows]


def test_another_clip_of_the_bundle_is_refused(packed, tmp_path, elsewhere, capsys):
    members = recorded(packed(), parents={"clip": "0" * 64})
    message = error(capsys, "reproduce", bundle(members, tmp_path), "--dir", "out")
    assert "parents/clip: is not the clip that the run depends on" in message
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("key", ["run.dir=x", "tracking.wandb=true"])
def test_what_cannot_be_changed(packed, tmp_path, elsewhere, capsys, key):
    message = error(capsys, "reproduce", bundle(packed(), tmp_path), key)
    assert f"{key.split('=')[0]}: cannot be changed here" in message


def test_missing_data_are_named_with_the_mend(minute_experiment, tmp_path, elsewhere, capsys):
    photos = tmp_path / "first" / "photos"
    photos.mkdir(parents=True)
    for k in range(8):
        Image.new("RGB", (16, 16), (k * 30, 0, 0)).save(photos / f"{k}.png")
        (photos / f"{k}.txt").write_text(f"image {k}")
    experiment, run = minute_experiment("clip"), tmp_path / "first" / "run"
    assert main(["train", str(experiment), f"data.source={photos}", f"run.dir={run}"]) == 0
    assert main(["share", str(run), "--to", str(tmp_path / "b.zip")]) == 0
    (tmp_path / "first").rename(tmp_path / "second")
    words = ["reproduce", tmp_path / "b.zip"]
    message = error(capsys, *words)
    assert "data.source='photos': would be read on this machine; add --allow-source" in message
    message = error(capsys, *words, "--allow-source")
    assert "photos does not exist" in message
    assert message.endswith("name your copy by data.source=...")
    words = [*map(str, words), f"data.source={tmp_path / 'second' / 'photos'}", "--dir", "out"]
    assert main(words) == 0
    assert report(tmp_path / "elsewhere" / "out")["verdict"] == "bit-identical"
    assert report(tmp_path / "elsewhere" / "out")["changed"] == {}


@pytest.mark.slow
def test_the_tiny_prior_in_another_folder(tmp_path):
    """From processes of their own, with no file but the bundle to help."""
    first, second = tmp_path / "first", tmp_path / "second"
    few = ["trainer.max_steps=12", "data.batch_size=32", "trainer.log_every=2"]

    def unclip(folder, *words):
        folder.mkdir(exist_ok=True)
        words = [sys.executable, "-m", "unclip", *words]
        return subprocess.run(words, cwd=folder, capture_output=True, text=True)

    for name in ("clip/tiny", "prior/tiny"):
        assert unclip(first, "train", name, *few).returncode == 0
    assert unclip(first, "share", "prior/tiny", "--to", str(tmp_path / "b.zip")).returncode == 0
    first.rename(tmp_path / "gone")
    done = unclip(second, "reproduce", str(tmp_path / "b.zip"), "--dir", "same")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("bit-identical")
    words = ["reproduce", str(tmp_path / "b.zip"), "--dir", "other", "optim.lr=3e-4"]
    done = unclip(second, *words, f"clip={second / 'same' / 'clip'}")
    assert done.returncode == 1, done.stderr
    assert done.stdout.splitlines()[-1] == "results differ; changed by you: optim.lr"
