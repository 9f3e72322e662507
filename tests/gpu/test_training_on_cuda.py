"""Training on one GPU: what a CPU cannot show. Minute networks, seconds each."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from unclip.config.load import load_experiment
from unclip.runs.train import train
from unclip.stages.clip.part import load
from unclip.tracking.files import SUMMARY, curves, read_json, read_metrics
from unclip.training.callbacks import Throughput
from unclip.training.stage import Stage

STAGES = ("clip", "prior", "ar_prior", "decoder", "upsampler")
SEVERAL = Path(__file__).parents[1] / "training/several.py"


@pytest.fixture(scope="module")
def overrides(cascade):
    """What a stage's run in a folder needs besides its experiment file."""

    def of(kind, folder, *more):
        given = [f"run.dir={folder}", "trainer.accelerator=gpu", "trainer.max_steps=6"]
        if kind not in ("clip", "upsampler"):
            given.append(f"clip={cascade / 'clip'}")
        if kind == "ar_prior":
            given.append(f"pca={cascade / 'pca'}")
        if kind in ("decoder", "upsampler"):
            given.append("model.unet.dropout=0")
        typed = {each.partition("=")[0] for each in more}
        return [*(each for each in given if each.partition("=")[0] not in typed), *more]

    return of


def losses(folder):
    return [value for _, value in curves(read_metrics(folder / "metrics.jsonl"))["train/loss"]]


@pytest.mark.parametrize("compile", ["none", "auto"])
@pytest.mark.parametrize("kind", STAGES)
def test_a_stage_trains_draws_validates_and_resumes(
    overrides, minute_experiment, tmp_path, kind, compile
):
    every = ["trainer.val_every=2", "trainer.sample_every=2", "trainer.checkpoint_every=2"]
    more = [*every, f"trainer.compile={compile}", "trainer.precision=bf16-mixed"]
    experiment = str(minute_experiment(kind))
    train(load_experiment(experiment, overrides(kind, tmp_path, *more)))
    longer = [*more, "trainer.max_steps=8"]
    done = train(load_experiment(experiment, overrides(kind, tmp_path, *longer)), resume=True)
    assert done.summary["steps"] == 8
    assert len(losses(tmp_path)) == 8


@pytest.mark.parametrize("kind", STAGES)
def test_strict_runs_have_the_same_bits_with_recomputed_blocks(
    overrides, minute_experiment, tmp_path, kind
):
    found = []
    for k, how in enumerate(("none", "none", "full")):
        strict = ["trainer.deterministic=strict", f"trainer.activation_checkpointing={how}"]
        folder = tmp_path / str(k)
        train(load_experiment(str(minute_experiment(kind)), overrides(kind, folder, *strict)))
        found.append(losses(folder))
    assert found[0] == found[1]
    assert found[2] == pytest.approx(found[0], rel=1e-5)


@pytest.mark.parametrize("kind", STAGES)
def test_micro_batches_train_the_same(overrides, minute_experiment, tmp_path, kind):
    found = []
    for k in (1, 2, 4):
        more = [f"trainer.accumulate={k}", "optim.eps=1e-6"]
        given = overrides(kind, tmp_path / str(k), *more)
        train(load_experiment(str(minute_experiment(kind)), given))
        found.append(losses(tmp_path / str(k)))
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("offload", ["false", "true"])
@pytest.mark.parametrize("kind", ["clip", "decoder", "prior"])
def test_fsdp_on_one_gpu_has_the_losses_of_one_process(
    overrides, minute_experiment, tmp_path, kind, offload
):
    every = ["trainer.val_every=2", "trainer.sample_every=2", "trainer.checkpoint_every=2"]
    sharded = ["trainer.strategy=fsdp", f"trainer.cpu_offload={offload}"]
    jobs = [
        {"experiment": str(minute_experiment(kind)), "overrides": overrides(kind, folder, *more)}
        for folder, more in (
            (tmp_path / "one", every),
            (tmp_path / "fsdp", [*every, *sharded]),
        )
    ]
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    command = [sys.executable, str(SEVERAL), str(tmp_path / "jobs.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-4000:]
    assert losses(tmp_path / "fsdp") == pytest.approx(losses(tmp_path / "one"), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("kind", STAGES)
def test_no_step_waits_for_the_gpu(overrides, minute_experiment, tmp_path, kind, monkeypatch):
    """By CUDA's own word; the CPU tests (test_host_syncs) know operations alone."""
    step = Stage.on_train_batch_start

    def watched(self, batch, batch_idx):
        step(self, batch, batch_idx)
        if self.global_step == 2:  # the first ones warm up
            torch.cuda.set_sync_debug_mode("error")

    def clipped(self, *args, **kwargs):
        torch.cuda.set_sync_debug_mode("default")
        return clip(self, *args, **kwargs)

    clip = Stage.configure_gradient_clipping
    monkeypatch.setattr(Stage, "on_train_batch_start", watched)
    monkeypatch.setattr(Stage, "configure_gradient_clipping", clipped)
    more = ["trainer.log_every=100", "trainer.max_steps=4", "trainer.compile=none"]
    try:
        train(load_experiment(str(minute_experiment(kind)), overrides(kind, tmp_path, *more)))
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_frozen_clip_is_the_same_under_autocast_and_without_tf32(cascade):
    clip = load(cascade / "clip").model.cuda()
    images = torch.rand(8, 3, 16, 16, device="cuda") * 2 - 1
    plain = clip.encode_image(images)
    with torch.autocast("cuda", torch.bfloat16):
        assert torch.equal(clip.encode_image(images), plain)
    on_cpu = load(cascade / "clip").model.encode_image(images.cpu())
    torch.testing.assert_close(plain.cpu(), on_cpu, rtol=1e-5, atol=1e-6)  # TF32: 1e-3


@pytest.mark.parametrize("accumulate", [1, 4])
def test_throughput_and_memory_are_the_gpus(
    overrides, minute_experiment, tmp_path, accumulate, monkeypatch
):
    seen = {}
    end = Throughput.on_train_batch_end

    def clocked(self, trainer, stage, *args, **kwargs):
        end(self, trainer, stage, *args, **kwargs)
        torch.cuda.synchronize()
        seen.setdefault(trainer.global_step, time.perf_counter())

    monkeypatch.setattr(Throughput, "on_train_batch_end", clocked)
    more = [f"trainer.accumulate={accumulate}", "trainer.max_steps=60", "data.batch_size=16"]
    more += ["trainer.checkpoint_every=1000", "trainer.log_every=10"]
    given = overrides("decoder", tmp_path, *more)
    train(load_experiment(str(minute_experiment("decoder")), given))
    summary = read_json(tmp_path / SUMMARY)
    clock = 16 * 58 / (seen[59] - seen[1])
    assert summary["samples_per_second"] == pytest.approx(clock, rel=0.2)
    assert 0 < summary["peak_memory_gib"] < 2  # the host's would be larger
