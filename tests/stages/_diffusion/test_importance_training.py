"""Importance sampling in training: who fills the history, and that runs and processes agree."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, local

import pytest
import torch
from safetensors.torch import load_file
from torch import distributed
from torch.multiprocessing import spawn

from unclip.common import artifacts
from unclip.config.load import load_experiment
from unclip.diffusion.importance import KEPT
from unclip.nn.config import UNetConfig
from unclip.runs.train import train
from unclip.stages.upsampler.config import UpsamplerExperiment
from unclip.stages.upsampler.stage import UpsamplerStage
from unclip.training.random import StepRandom

STEPS, BATCH = 4, 32
SHORT = ["diffusion.timesteps=importance", f"diffusion.steps={STEPS}", "sampler.steps=2"]


def build() -> UpsamplerStage:
    experiment = UpsamplerExperiment()
    experiment.model.unet = UNetConfig(channels=32, blocks=1, multiples=[1])
    experiment.diffusion.timesteps = "importance"
    experiment.diffusion.steps = STEPS
    return UpsamplerStage(experiment)


def step(stage: UpsamplerStage, number: int, rank: int = 0, world: int = 1):
    """A training step of a network that always answers zero."""
    draws = StepRandom(0, number, rank, world)
    at = stage.add_noise(draws.normal("x0", (BATCH // world, 3, 4, 4)), draws, training=True)
    return at, stage.losses(torch.zeros(len(at.t), 6, 4, 4), at)


def test_training_fills_the_history_and_validation_does_not():
    stage = build()
    for number in range(4):
        step(stage, number)
    assert stage.history.counts.sum() == 4 * BATCH
    assert (stage.history.counts >= KEPT).all()
    before = stage.history.counts.clone()
    draws = StepRandom(0, 9)
    at = stage.add_noise(torch.zeros(2000, 3, 4, 4), draws, training=False)
    stage.losses(torch.zeros(2000, 6, 4, 4), at)
    assert at.weight is None
    assert at.t.bincount(minlength=STEPS).min() > 400
    assert torch.equal(stage.history.counts, before)


def test_the_loss_is_weighted_and_its_parts_with_it():
    stage = build()
    for number in range(4):
        step(stage, number)
    before = {name: value.clone() for name, value in stage.history.state_dict().items()}
    at, values = step(stage, 4)
    assert at.weight.std() > 0.01
    added = stage.history.counts - before["counts"]
    assert torch.equal(added, at.t.bincount(minlength=STEPS))
    stage.history = None
    plain = [
        stage.losses(torch.zeros(1, 6, 4, 4), type(at)(*(x[k : k + 1] for x in at)))
        for k in range(BATCH)
    ]
    for name in ("loss", "mse", "vb"):
        each = torch.stack([one[name] for one in plain])
        torch.testing.assert_close(values[name], (at.weight * each).mean())


def test_two_processes_keep_the_history_of_one(monkeypatch):
    alone, both = build(), [build(), build()]
    for number in range(6):
        step(alone, number)
    barrier, sent = Barrier(2, timeout=20), [torch.empty(0)] * 2
    rank_of = local()

    def all_gather(parts, mine):
        sent[rank_of.me] = mine
        barrier.wait()
        for part, value in zip(parts, sent):
            part.copy_(value)
        barrier.wait()

    def run(rank):
        rank_of.me = rank
        for number in range(6):
            step(both[rank], number, rank, 2)

    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed, "all_gather", all_gather)
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(run, range(2)))
    for stage in both:
        assert torch.equal(stage.history.losses, alone.history.losses)
        assert torch.equal(stage.history.counts, alone.history.counts)


def _process(rank: int, store: str, out: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    stage = build()
    for number in range(6):
        step(stage, number, rank, 2)
    torch.save(stage.history.state_dict(), f"{out}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_real_processes_keep_the_history_of_one(tmp_path):
    spawn(_process, (f"file://{tmp_path}/store", str(tmp_path)), nprocs=2)
    alone = build()
    for number in range(6):
        step(alone, number)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, value in alone.history.state_dict().items():
            assert torch.equal(found[name], value)


@pytest.mark.parametrize("kind", ["prior", "upsampler"])
def test_interrupted_and_resumed_gives_the_same_bits(
    cascade, minute_experiment, tmp_path, kind, monkeypatch
):
    from unclip.training.callbacks import Throughput

    more = ["data.batch_size=16", "trainer.max_steps=8", "trainer.checkpoint_every=6"]
    overrides = [*SHORT, *more] + ([f"clip={cascade / 'clip'}"] if kind == "prior" else [])

    def load(name):
        given = [*overrides, f"run.dir={tmp_path / name}"]
        return load_experiment(str(minute_experiment(kind)), given)

    whole = artifacts.describe(train(load("whole")).artifact)
    assert not any("history" in name for name in whole.weights())
    kept = load_file(tmp_path / "whole/checkpoints/step_0000008/rank_00000.safetensors")
    assert kept["net.history.counts"].min() >= KEPT  # so the draws were not even
    assert kept["net.history.counts"].sum() == 8 * 16

    def killed(self, trainer, *args, **kwargs):
        if trainer.global_step == 6:
            raise MemoryError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(Throughput, "on_train_batch_start", killed)
        with pytest.raises(MemoryError):
            train(load("parts"))
    resumed = artifacts.describe(train(load("parts"), resume=True).artifact)
    assert resumed.sha256 == whole.sha256
