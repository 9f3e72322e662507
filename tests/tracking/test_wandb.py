"""The real W&B client against a server on loopback, offline, and with everything gone wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from fnmatch import fnmatch
from pathlib import Path

import psutil
import pytest
from wandb_server import KEY, serving

from unclip.common import artifacts
from unclip.common.errors import UserError
from unclip.config.load import load_experiment
from unclip.runs.fit import fit
from unclip.runs.train import train
from unclip.tracking.config import TrackingConfig
from unclip.tracking.files import read_metrics
from unclip.tracking.tracker import UNITS
from unclip.tracking.wandb import tracked
from unclip.training.callbacks import Throughput


@pytest.fixture
def run(minute_experiment, tmp_path):
    """Trains a minute experiment in a folder of its own, and gives that."""

    def run(kind, *overrides, resume=False):
        given = [f"run.dir={tmp_path / kind}", "tracking.wandb=true", *overrides]
        train(load_experiment(str(minute_experiment(kind)), given), resume=resume)
        return tmp_path / kind

    return run


def told(folder):
    """What W&B calls the run in a folder."""
    return json.loads((folder / "wandb.json").read_text())["id"]


def test_a_run_and_its_parent_arrive(server, run):
    clip = run("clip")
    prior = run("prior", f"clip={clip}")
    first, second = server.runs[told(clip)], server.runs[told(prior)]

    rows = read_metrics(prior / "metrics.jsonl")
    for name in ("train/loss", "train/grad_norm", "val/loss", "samples_per_second", "data_wait"):
        local = [(row["step"], row[name]) for row in rows if name in row]
        assert server.received(told(prior), name) == local
        assert local

    sent = {key: each["value"] for key, each in second["config"].items()}
    assert sent["optim"]["lr"] == 1e-3
    assert sent["model"]["width"] == 32
    assert sent["parents"] == {"clip": artifacts.describe(clip).sha256}
    assert sent["units"]["peak_memory_gib"].startswith("GiB")

    summary = json.loads((prior / "summary.json").read_text())
    for name in ("loss", "parameters", "seconds", "samples_per_second"):
        assert second["summary"][name] == pytest.approx(summary[name])
    assert second["summary"]["val/cosine"] == pytest.approx(summary["metrics"]["val/cosine"])
    assert set(second["summary"]["train/grad_norm"]) == {"last", "mean", "max"}
    assert second["exitcode"] == 0

    [kept] = [made for made in server.artifacts if made["artifactTypeName"] == "clip"]
    assert sorted(kept["files"]) == ["artifact.json", "config.yaml", "provenance.json"]
    assert kept["state"] == "COMMITTED"
    assert [each["artifactCollectionName"] for each in second["uses"]] == ["clip"]
    assert first["uses"] == []

    page = prior / "index.html"
    page.write_text("drawn")
    about = {"name": "pipeline/x", "kind": "pipeline", "experiment": {}}
    stages = {"clip": str(clip), "prior": str(prior)}
    on = TrackingConfig(wandb=True)
    with tracked(on, folder=clip.parent, parents=stages, **about) as tracker:
        tracker.keep("pipeline", "pipeline", [page])
    uses = server.runs[told(clip.parent)]["uses"]
    assert [each["artifactCollectionName"] for each in uses] == ["clip", "diffusion_prior"]
    assert "WANDB_DATA_DIR" not in os.environ


def test_images_arrive_with_caption_and_seed(server, run, cascade):
    folder = run("decoder", f"clip={cascade / 'clip'}", "tracking.log_weights=true")
    [file] = folder.glob("wandb/run-*/files/media/table/*.json")
    table = json.loads(file.read_text())
    assert table["columns"] == ["step", "caption", "image", "seed"]
    assert [row[3] for row in table["data"][:4]] == [None, 0, None, 1]
    assert table["data"][1][1].startswith("decoded")
    assert {row[0] for row in table["data"]} == {3}
    gallery = server.runs[told(folder)]["summary"]["samples"]
    assert gallery["captions"] == [row[1] for row in table["data"]]
    [made] = [made for made in server.artifacts if made["artifactTypeName"] == "decoder"]
    assert "weights.safetensors" in made["files"]
    assert "weights.safetensors" in server.uploads
    # Neither code nor console nor git.
    kinds = {"media", "samples_table.table.json", "manifest", *artifacts.FILES}
    own = {"config.yaml", "requirements.txt", "wandb-metadata.json", "wandb-summary.json"}
    assert {name.split("/")[0] for name in server.uploads} == kinds | own
    [meta] = folder.glob("wandb/run-*/files/wandb-metadata.json")
    assert "git" not in json.loads(meta.read_text())
    # This CLIP was trained without W&B: its checksum is all there is.
    assert server.runs[told(folder)]["uses"] == []


def test_a_resumed_run_goes_on_and_says_nothing_twice(server, run, monkeypatch):
    def killed(self, trainer, *args, **kwargs):
        if trainer.global_step == 3:
            raise MemoryError("killed")

    longer = ("trainer.max_steps=4", "trainer.sample_every=2")
    with monkeypatch.context() as patched:
        patched.setattr(Throughput, "on_train_batch_start", killed)
        with pytest.raises(MemoryError):
            run("clip", *longer)
    [(name, before)] = server.runs.items()
    assert before["exitcode"] == 1
    folder = run("clip", *longer, resume=True)  # from the checkpoint of step 2
    assert list(server.runs) == [name] == [told(folder)]
    assert server.runs[name]["exitcode"] == 0
    for metric in ("train/loss", "samples_per_second"):
        steps = [step for step, _ in server.received(name, metric)]
        assert steps == sorted(set(steps))
    rows = read_metrics(folder / "metrics.jsonl")
    local = [(row["step"], row["train/loss"]) for row in rows if "train/loss" in row]
    assert server.received(name, "train/loss") == local
    assert [step for step, _ in server.received(name, "samples")] == [2, 4]


def test_interrupted_is_not_failed(server, run, monkeypatch):
    def told_to_stop(self, trainer, *args, **kwargs):
        if trainer.global_step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Throughput, "on_train_batch_start", told_to_stop)
    with pytest.raises(UserError, match="continue with --resume"):
        run("clip")
    [kept] = server.runs.values()
    assert kept["exitcode"] == 75
    assert kept["preempting"]


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({}, "no API key: run `wandb login`"),
        ({"WANDB_API_KEY": "short"}, "WANDB_API_KEY invalid"),
        ({"WANDB_API_KEY": "x" * 40}, "invalid API key"),
        ({"WANDB_API_KEY": KEY, "WANDB_BASE_URL": "http://127.0.0.1:9"}, "no answer from http://"),
    ],
)
def test_without_key_or_network_a_run_goes_on_offline(server, client, run, capfd, given, line):
    client(**{"WANDB_API_KEY": "", "WANDB_HTTP_TIMEOUT": "1", **given})
    began = time.monotonic()
    folder = run("clip")
    assert time.monotonic() - began < 60
    said = [row for row in capfd.readouterr().err.splitlines() if row.startswith("W&B: ")]
    assert len(said) == 1
    assert line in said[0]
    assert said[0].endswith("going on offline")
    assert server.runs == {}
    assert (folder / "summary.json").is_file()
    assert len(list(folder.glob("wandb/offline-run-*/*.wandb"))) == 1


@pytest.mark.slow
def test_offline_keeps_all_for_wandb_sync(client, run):
    client(WANDB_MODE="offline")
    folder = run("clip")
    [kept] = folder.glob("wandb/offline-run-*")
    with serving() as server:
        words = [sys.executable, "-m", "wandb", "sync", str(kept)]
        environment = {**os.environ, **server.environment()}
        del environment["WANDB_MODE"]
        subprocess.run(words, env=environment, check=True, capture_output=True, timeout=120)
    assert list(server.runs) == [told(folder)]
    rows = read_metrics(folder / "metrics.jsonl")
    local = [(row["step"], row["train/loss"]) for row in rows if "train/loss" in row]
    assert server.received(told(folder), "train/loss") == local
    [made] = [made for made in server.artifacts if made["artifactTypeName"] == "clip"]
    assert artifacts.describe(folder).sha256[:12] in [each["alias"] for each in made["aliases"]]


def test_a_pca_is_kept_too(server, minute_experiment, cascade, tmp_path):
    given = [f"run.dir={tmp_path / 'pca'}", f"clip={cascade / 'clip'}", "tracking.wandb=true"]
    fit(load_experiment(str(minute_experiment("pca")), given))
    assert server.runs[told(tmp_path / "pca")]["summary"]["components"] == 6
    assert [made["artifactTypeName"] for made in server.artifacts] == ["pca"]


def test_every_metric_has_its_unit_and_the_docs_have_the_same(cascade):
    logged = {
        name
        for file in cascade.glob("*/metrics.jsonl")
        for row in read_metrics(file)
        for name in row.keys() - {"step", "time"}
    }
    assert logged
    for name in logged:
        assert any(fnmatch(name, pattern) for pattern in UNITS), name
    page = (Path(__file__).parents[2] / "docs" / "wandb.md").read_text()
    table = re.findall(r"^\| `(.+?)` \| (.+?) \|", page.split("| unit |")[1], flags=re.MULTILINE)
    assert dict(table) == UNITS


def kill_client():
    for child in psutil.Process().children(recursive=True):
        if "wandb-core" in child.name():
            child.kill()
            child.wait()


@pytest.mark.parametrize("lost", ["client", pytest.param("network", marks=pytest.mark.slow)])
def test_training_outlives_what_it_logs_to(server, client, run, monkeypatch, capfd, lost):
    client(WANDB_HTTP_TIMEOUT="1", WANDB_FINISH_TIMEOUT="1")

    def lose(self, trainer, *args, **kwargs):
        if trainer.global_step == 1:
            kill_client() if lost == "client" else server.stop()

    monkeypatch.setattr(Throughput, "on_train_batch_start", lose)
    folder = run("clip", "trainer.sample_every=2")
    assert json.loads((folder / "summary.json").read_text())["steps"] == 3
    assert len(list((folder / "samples").glob("*.png"))) == 2
    said = [row for row in capfd.readouterr().err.splitlines() if row.startswith("W&B: ")]
    assert len(said) == 1
    assert said[0].endswith(f"from here on only {folder} has everything")


@pytest.mark.parametrize("text", ["{", '{"id": "../../x"}', '{"id": 3}', "[]"])
def test_a_damaged_state_is_refused(cascade, client, minute_experiment, tmp_path, text):
    (tmp_path / "wandb.json").write_text(text)
    about = {"name": "clip/x", "kind": "clip", "experiment": {}, "parents": {}}
    with (
        pytest.raises(UserError, match=r"wandb\.json: damaged; remove it"),
        tracked(TrackingConfig(wandb=True), folder=tmp_path, **about),
    ):
        pass
