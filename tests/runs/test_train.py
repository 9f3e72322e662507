"""A run from experiment to artifact: its files, its bits, its refusals."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from safetensors.torch import load_file

from unclip.common import artifacts
from unclip.common.errors import UserError
from unclip.config.load import load_experiment
from unclip.runs.parents import count_parameters
from unclip.runs.train import train

KINDS = ("clip", "prior", "decoder", "upsampler")


def weights(folder):
    return (folder / "artifact" / "weights.safetensors").read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_leaves_everything_one_needs(cascade, kind):
    folder = cascade / kind
    assert yaml.safe_load((folder / "experiment.yaml").read_text())["trainer"]["max_steps"] == 3
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert any("train/loss" in row for row in rows)
    assert any("val/loss" in row for row in rows)
    assert list((folder / "samples").glob("*.png"))
    artifact = artifacts.describe(folder)
    assert {"git_revision", "packages", "seed", "data_fingerprint", "metrics"} <= set(
        artifact.provenance
    )
    assert artifact.provenance["packages"]["torch"] == torch.__version__.split("+")[0]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["quality"]["value"] is not None
    assert summary["data_skipped"] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_interrupted_and_resumed_gives_the_same_bits(
    cascade, minute_experiment, tmp_path, kind, monkeypatch
):
    from unclip.training.callbacks import Throughput

    overrides = [f"run.dir={tmp_path / kind}"]
    if kind in ("prior", "decoder"):
        overrides.append(f"clip={cascade / 'clip'}")
    resolved = load_experiment(str(minute_experiment(kind)), overrides)

    # Killed after the checkpoint of step 2: nothing of the process survives but its files.
    def killed(self, trainer, *args, **kwargs):
        if trainer.global_step == 2 and (tmp_path / kind / "checkpoints").exists():
            raise MemoryError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(Throughput, "on_train_batch_start", killed)
        with pytest.raises(MemoryError):
            train(resolved)
    assert not (tmp_path / kind / "artifact").exists()
    finished = train(load_experiment(str(minute_experiment(kind)), overrides), resume=True)
    assert finished.summary["steps"] == 3
    assert weights(tmp_path / kind) == weights(cascade / kind)


def test_the_exported_weights_are_the_average(cascade):
    folder = cascade / "decoder" / "checkpoints" / "step_0000003"
    checkpoint = load_file(folder / "rank_00000.safetensors")
    exported = load_file(cascade / "decoder" / "artifact" / "weights.safetensors")
    assert {f"net.ema.{k}" for k in exported} == {k for k in checkpoint if k.startswith("net.ema.")}
    for name, tensor in exported.items():
        assert torch.equal(tensor, checkpoint[f"net.ema.{name}"])
    assert not any("clip" in k for k in checkpoint)


def test_a_run_is_not_overwritten_unasked(cascade, minute_experiment):
    resolved = load_experiment(str(minute_experiment("clip")), [f"run.dir={cascade / 'clip'}"])
    with pytest.raises(UserError, match="--resume to continue it or --force"):
        train(resolved)


def test_force_replaces_runs_only(tmp_path, minute_experiment):
    (tmp_path / "holiday.jpg").write_text("dear")
    resolved = load_experiment(str(minute_experiment("clip")), [f"run.dir={tmp_path}"])
    with pytest.raises(UserError, match="replaces runs only"):
        train(resolved, force=True)
    assert (tmp_path / "holiday.jpg").exists()


def test_a_run_continues_with_its_own_model(cascade, minute_experiment):
    overrides = [f"run.dir={cascade / 'clip'}", "model.text_layers=2"]
    with pytest.raises(UserError, match=r"model\.text_layers: 1 -> 2"):
        train(load_experiment(str(minute_experiment("clip")), overrides), resume=True)


def test_resume_without_a_checkpoint_says_so(tmp_path, minute_experiment):
    resolved = load_experiment(str(minute_experiment("clip")), [f"run.root={tmp_path}"])
    with pytest.raises(UserError, match="no checkpoint"):
        train(resolved, resume=True)


def test_an_embedding_size_that_is_not_the_clips_is_refused(cascade, minute_experiment, tmp_path):
    overrides = [f"run.dir={tmp_path / 'x'}", f"clip={cascade / 'clip'}", "model.embed_dim=768"]
    with pytest.raises(UserError, match=r"model\.embed_dim=768: the CLIP .* has 16"):
        train(load_experiment(str(minute_experiment("prior")), overrides))


def test_a_missing_clip_names_its_mend(minute_experiment, tmp_path):
    resolved = load_experiment(str(minute_experiment("prior")), [f"run.root={tmp_path}"])
    with pytest.raises(UserError, match="unclip train clip/tiny"):
        train(resolved)
    resolved = load_experiment(str(minute_experiment("prior")), ["clip=/no/such/artifact"])
    with pytest.raises(UserError, match="clip=/no/such/artifact: no such artifact"):
        train(resolved)


def test_a_run_without_held_out_samples_ends_well(minute_experiment, tmp_path):
    overrides = [f"run.dir={tmp_path / 'x'}", "data.held_out=0"]
    finished = train(load_experiment(str(minute_experiment("clip")), overrides))
    assert finished.summary["loss"] > 0  # of training
    assert finished.summary["quality"]["value"] is None


@pytest.mark.parametrize("kind", [*KINDS, "ar_prior"])
def test_parameters_are_counted_without_weights(cascade, kind):
    summary = json.loads((cascade / kind / "summary.json").read_text())
    resolved = load_experiment(str(cascade / kind / "experiment.yaml"))
    assert count_parameters(resolved) == summary["parameters"]
