"""A run has its folder for itself: no name twice, nothing lost, all about it written down."""

from __future__ import annotations

import json
import secrets
import shutil
import threading

import pytest

from unclip.cli import main
from unclip.common.errors import UserError
from unclip.config.load import load_experiment
from unclip.runs.folders import acquire_run
from unclip.runs.train import train
from unclip.tracking.status import run_lock, status_of
from unclip.training.callbacks import Throughput


@pytest.fixture
def load(minute_experiment):
    def load(*more, kind="clip"):
        return load_experiment(str(minute_experiment(kind)), list(more))

    return load


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_runs_that_start_in_the_same_second_get_folders_of_their_own(load, tmp_path, monkeypatch):
    draws = iter(["aaaa"] * 8 + [f"{k:04}" for k in range(100)])
    monkeypatch.setattr(secrets, "token_hex", lambda count: next(draws))
    resolved = load(f"run.root={tmp_path}")
    found, here = [], threading.Barrier(8)

    def start():
        here.wait()
        with acquire_run(resolved) as run:
            (run.folder / "mine").touch()
            found.append(run.folder)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 8
    assert {path.parent for path in found} == {tmp_path / "clip/clip"}


def test_only_one_of_many_gets_a_folder_that_all_ask_for(load, tmp_path):
    resolved = load(f"run.dir={tmp_path / 'run'}")
    said, got, here, done = [], [], threading.Barrier(4), threading.Barrier(4)

    def start():
        here.wait()
        try:
            with acquire_run(resolved) as run:
                got.append(run.folder)
                (run.folder / "experiment.yaml").touch()
                done.wait()
        except UserError as error:
            said.append(str(error))
            done.wait()

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1
    assert len(said) == 3
    assert all("another process is training there" in line for line in said)


@pytest.mark.parametrize("words", [{"resume": True}, {"force": True}, {}])
def test_a_folder_where_another_trains_is_refused_and_left_alone(cascade, load, words):
    before = files(cascade / "clip")
    with (
        run_lock(cascade / "clip"),
        pytest.raises(UserError, match="another process is training there"),
    ):
        train(load(f"run.dir={cascade / 'clip'}"), **words)
    changed = {k for k, v in files(cascade / "clip").items() if before[k] != v}
    assert changed <= {"status.json"}
    assert status_of(cascade / "clip").state == "finished"


def test_a_refused_start_leaves_no_folder_however_deep(load, tmp_path):
    for given in (f"run.dir={tmp_path / 'a/b/c'}", f"run.root={tmp_path / 'd/e'}"):
        with pytest.raises(UserError, match="does not exist"):
            train(load(given, "data.source=nowhere.tar"))
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_cannot_begin_leaves_what_was_there(load, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/experiment.yaml").write_text("stage: clip\n")
    wrong = f"data.source={tmp_path / 'nowhere.parquet'}"
    with pytest.raises(UserError, match="does not exist"):
        train(load(f"run.dir={tmp_path / 'run'}", wrong), force=True)
    assert files(tmp_path / "run")["experiment.yaml"] == b"stage: clip\n"
    with pytest.raises(UserError, match="does not exist"):
        train(load(f"run.dir={tmp_path / 'new'}", wrong))
    assert not (tmp_path / "new").exists()


def test_of_a_start_that_failed_the_advice_leads_out(load, tmp_path):
    """Not "add --resume", then "start without --resume"."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "experiment.yaml").write_text("stage: clip\n")  # it has died before any checkpoint
    for words in ({}, {"resume": True}):
        with pytest.raises(UserError, match="holds a run without a checkpoint") as caught:
            train(load(f"run.dir={folder}"), **words)
        _, _, advice = str(caught.value).partition("checkpoint; ")
        assert "--force" in advice
        assert "resume" not in advice
    assert train(load(f"run.dir={folder}"), force=True).summary["steps"] == 3
    with pytest.raises(UserError, match="add --resume to continue it or --force to start over"):
        train(load(f"run.dir={folder}"))


def test_force_starts_anew(load, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("experiment.yaml", "metrics.jsonl", "summary.json", "old.txt"):
        (folder / name).write_text("{}\n")
    (folder / "samples").mkdir()
    (folder / "link").symlink_to(tmp_path)
    train(load(f"run.dir={folder}"), force=True)
    assert tmp_path.exists()
    assert not (folder / "old.txt").exists()
    assert not (folder / "link").exists()
    assert json.loads((folder / "summary.json").read_text())["steps"] == 3


def test_everything_about_a_run_is_written_down(cascade):
    for kind, parents in (("clip", set()), ("prior", {"clip"}), ("ar_prior", {"clip", "pca"})):
        folder = cascade / kind
        origin = json.loads((folder / "provenance.json").read_text())
        exported = json.loads((folder / "artifact/provenance.json").read_text())
        assert exported.pop("metrics")
        assert exported["made_here"]  # by this account
        assert exported == origin
        assert origin["experiment"].endswith(f"/{kind}")
        assert set(origin["parents"]) == parents
        assert origin["processes"] == 1
        assert status_of(folder).state == "finished"
        log = (folder / "log.txt").read_text().splitlines()
        assert log[1].endswith(str(folder))
        assert log[-1].endswith(" finished")
    codec = json.loads((cascade / "pca/artifact/artifact.json").read_text())["sha256"]
    assert origin["parents"]["pca"] == codec
    assert json.loads((cascade / "pca/provenance.json").read_text())["parents"].keys() == {"clip"}


def test_provenance_is_there_from_the_start_and_a_resumed_run_adds_to_it(
    load, tmp_path, monkeypatch
):
    resolved = load(f"run.dir={tmp_path / 'run'}", kind="upsampler")

    def killed(self, trainer, *args, **kwargs):
        if trainer.global_step == 2:
            raise MemoryError("no more")

    with monkeypatch.context() as patched:
        patched.setattr(Throughput, "on_train_batch_start", killed)
        with pytest.raises(MemoryError):
            train(resolved)
    start = json.loads((tmp_path / "run/provenance.json").read_text())
    assert status_of(tmp_path / "run")[:2] == ("failed", "no more")
    train(load(f"run.dir={tmp_path / 'run'}", kind="upsampler"), resume=True)
    found = json.loads((tmp_path / "run/provenance.json").read_text())
    assert [set(entry) for entry in found.pop("resumed")] == [{"created", "command", "step"}]
    assert found == start
    log = (tmp_path / "run/log.txt").read_text()
    assert "MemoryError: no more" in log
    assert "resuming step_0000002" in log


def test_a_run_without_a_checkpoint_is_started_over_with_force(tmp_path, minute_experiment, capsys):
    folder = tmp_path / "run"
    command = ["train", str(minute_experiment("clip")), f"run.dir={folder}"]
    assert main(command) == 0
    shutil.rmtree(folder / "checkpoints")
    for more in ([], ["--resume"]):
        assert main([*command, *more]) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert "without a checkpoint" in line
        assert "--force" in line
    assert main([*command, "--force"]) == 0
