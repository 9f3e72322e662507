"""A network of one number, trained by the real trainer: every setting in closed form.

Its loss is x w of a sample x, so that the gradient is the sample. With Adam's eps of 1 the first
step is lr g / (|g| + 1), which depends on the gradient's size; with a small one it is lr.
"""

from __future__ import annotations

import math
import time
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, ClassVar

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from unclip.common.errors import UserError
from unclip.tracking.files import read_metrics
from unclip.tracking.local import JsonlLogger
from unclip.training import trainer as trainers
from unclip.training.callbacks import Throughput
from unclip.training.checkpoint_callback import CheckpointCallback
from unclip.training.checkpoint_folders import checkpoints
from unclip.training.config import EmaConfig, OptimConfig, TrainerConfig
from unclip.training.ema import EmaCallback
from unclip.training.means import Mean
from unclip.training.optim import build_optimizer
from unclip.training.stage import Monitor, Stage

START = 5.0


class One(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.full((1, 1), START))


class Numbers(Stage):
    """Keeps what happens at each micro-batch."""

    quality: ClassVar[Monitor] = Monitor("val/loss", "lower")

    def __init__(self, experiment: Any):
        super().__init__(experiment, One())
        self.weights_seen: list[float] = []  # before each micro-batch
        self.draws_seen: list[float] = []
        self.seeds: list[int] = []
        self.validated: list[tuple[int, int]] = []
        self.rates: list[float] = []

    def training_step(self, batch, batch_idx):
        self.weights_seen.append(self.net.w.item())
        self.draws_seen.append(float(self.rng(batch_idx).uniform("t", 1).sum()))
        self.seeds.append(torch.initial_seed())
        self.rates.append(self.optimizers().param_groups[0]["lr"])
        return (self.net.w * batch).mean()

    def validation_step(self, batch, batch_idx):
        # FSDP2 could not write again what it gathered for the average in inference mode.
        assert not torch.is_inference_mode_enabled()
        self.validated.append((self.global_step, self.validation_rng(batch_idx).step))
        self.log("val/loss", self.net.w.mean())


def fitted(
    tmp_path, samples, *, kind=Numbers, optim=None, ema=None, callbacks=(), **trainer
) -> Numbers:
    """Trained on ``samples``, one a micro-batch."""
    config = TrainerConfig(
        **{
            "max_steps": len(samples) // trainer.get("accumulate", 1),
            "precision": "32",
            "accelerator": "cpu",
            "val_every": 0,
            "checkpoint_every": 1000,
            "log_every": 1,
            "grad_clip": 0.0,
        }
        | trainer
    )
    experiment = SimpleNamespace(
        averages=True,
        data=SimpleNamespace(batch_size=trainer.get("accumulate", 1)),
        trainer=config,
        optim=OptimConfig(**({"lr": 0.1, "eps": 1e-12} | (optim or {}))),
        ema=EmaConfig(**({"decay": 0.5, "warmup": False} | (ema or {}))),
    )
    stage = kind(experiment)
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "experiment.yaml").touch()  # a run's folder
    trainers.quiet()
    made = trainers.build(
        config,
        folder=tmp_path,
        callbacks=[
            EmaCallback(experiment.ema),
            *callbacks,
            CheckpointCallback(tmp_path, config, stage.quality),
        ],
        loggers=[JsonlLogger(tmp_path)],
    )
    data = [torch.tensor([[float(sample)]]) for sample in samples]
    held_out = [torch.ones(1, 1)] * 2
    made.fit(stage, DataLoader(data, batch_size=None), DataLoader(held_out, batch_size=None))
    return stage


def steps_of(stage: Numbers) -> list[float]:
    """By how much the number moved at each micro-batch."""
    seen = [*stage.weights_seen, stage.net.w.item()]
    return [before - after for before, after in pairwise(seen)]


def test_the_validation_at_the_end_is_not_in_inference_mode(tmp_path):
    stage = fitted(tmp_path, [1.0])
    held_out = DataLoader([torch.ones(1, 1)] * 3, batch_size=None)
    before = len(stage.validated)
    stage.trainer.validate(stage, held_out, verbose=False)
    assert len(stage.validated) == before + 3


def test_adams_steps_have_the_length_of_the_learning_rate(tmp_path):
    stage = fitted(tmp_path, [1, 3, 2], optim={"lr": 0.2, "betas": [0.0, 0.0]})
    assert steps_of(stage) == pytest.approx([0.2] * 3, rel=1e-4)


@pytest.mark.parametrize("eps", [1e-12, 1.0, 4.0])
def test_eps_is_added_to_the_size_of_the_gradient(eps, tmp_path):
    stage = fitted(tmp_path, [3], optim={"eps": eps})
    assert steps_of(stage) == pytest.approx([0.1 * 3 / (3 + eps)], rel=1e-4)


@pytest.mark.parametrize("betas", [[0.5, 0.8], [0.8, 0.5], [0.0, 0.9]])
def test_the_betas_are_those_of_the_mean_and_of_the_square(betas, tmp_path):
    mean, square = betas
    m, v, expected = 0.0, 0.0, []
    for step, g in enumerate([1.0, -2.0, 4.0], start=1):
        m, v = mean * m + (1 - mean) * g, square * v + (1 - square) * g * g
        size = math.sqrt(v / (1 - square**step))
        expected.append(0.1 * m / (1 - mean**step) / size)
    stage = fitted(tmp_path, [1, -2, 4], optim={"betas": betas})
    assert steps_of(stage) == pytest.approx(expected, rel=1e-4)


def test_weights_decay_by_the_learning_rate_times_the_weight_decay(tmp_path):
    stage = fitted(tmp_path, [0, 0], optim={"weight_decay": 0.3})
    assert stage.net.w.item() == pytest.approx(START * (1 - 0.1 * 0.3) ** 2, rel=1e-5)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_muon_has_the_learning_rate_and_the_decay_of_its_settings(name, tmp_path):
    """Without a gradient nothing but decay moves a weight, whoever trains it."""
    net = nn.Linear(2, 2)
    before = net.weight.detach().clone()
    optimizer = build_optimizer(net, OptimConfig(name=name, lr=0.1, weight_decay=0.3))
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    bias = net.bias.detach().clone()
    optimizer.step()
    torch.testing.assert_close(net.weight.detach(), before * (1 - 0.1 * 0.3))
    assert torch.equal(net.bias.detach(), bias)


@pytest.mark.parametrize(
    ("optim", "rates"),
    [
        ({}, [1, 1, 1, 1]),
        ({"warmup_steps": 2}, [0.5, 1, 1, 1]),
        ({"schedule": "cosine"}, [1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2]),
        ({"schedule": "cosine", "warmup_steps": 2}, [0.5, 1, 1, 0.5]),
    ],
)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_learning_rate_follows_its_schedule_per_optimizer_step(
    optim, rates, accumulate, tmp_path
):
    stage = fitted(
        tmp_path,
        [1] * 4 * accumulate,
        optim={"betas": [0.0, 0.0], **optim},
        accumulate=accumulate,
    )
    assert stage.rates[::accumulate] == pytest.approx([0.1 * rate for rate in rates], rel=1e-6)
    moved = [sum(steps_of(stage)[k * accumulate :][:accumulate]) for k in range(4)]
    assert moved == pytest.approx([0.1 * rate for rate in rates], rel=1e-3)


def test_accumulated_gradients_are_those_of_the_mean_loss(tmp_path):
    stage = fitted(tmp_path, [1, 5, 2, 0], optim={"eps": 1.0, "betas": [0.0, 0.0]}, accumulate=2)
    assert steps_of(stage) == pytest.approx([0, 0.1 * 3 / 4, 0, 0.1 * 1 / 2], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(("grad_clip", "size"), [(0.0, 3.0), (1.0, 1.0), (2.0, 2.0), (9.0, 3.0)])
def test_gradients_are_clipped_to_the_norm_and_told_as_they_were(grad_clip, size, tmp_path):
    stage = fitted(tmp_path, [3], optim={"eps": 1.0}, grad_clip=grad_clip)
    assert steps_of(stage) == pytest.approx([0.1 * size / (size + 1)], rel=1e-4)
    assert stage.grad_norm.item() == pytest.approx(3.0)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("ema", [{"decay": 0.5}, {"decay": 0.9}, {"decay": 0.9, "warmup": True}])
def test_the_average_is_taken_once_per_optimizer_step(ema, accumulate, tmp_path):
    stage = fitted(
        tmp_path,
        [1] * 4 * accumulate,
        optim={"betas": [0.0, 0.0]},
        ema=ema,
        accumulate=accumulate,
    )
    average = START
    for step in range(1, 5):
        decay = min(ema["decay"], (1 + step) / (10 + step)) if "warmup" in ema else ema["decay"]
        average = decay * average + (1 - decay) * (START - 0.1 * step)
    assert stage.ema.w.item() == pytest.approx(average, rel=1e-5)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_every_micro_batch_has_draws_and_dropout_of_its_own_the_same_in_every_run(
    accumulate, tmp_path
):
    one, again = (fitted(tmp_path / str(k), [1] * 6, accumulate=accumulate) for k in range(2))
    assert len(set(one.draws_seen)) == len(set(one.seeds)) == 6
    assert one.draws_seen == again.draws_seen
    assert one.seeds == again.seeds
    other = fitted(tmp_path / "other", [1] * 6, accumulate=accumulate, seed=1)
    assert not set(one.seeds) & set(other.seeds)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize(("val_every", "at"), [(2, [2, 4]), (3, [3]), (0, [4])])
def test_validation_comes_every_so_many_optimizer_steps_with_the_same_draws(
    val_every, at, accumulate, tmp_path
):
    stage = fitted(tmp_path, [1] * 4 * accumulate, val_every=val_every, accumulate=accumulate)
    assert [step for step, _ in stage.validated[::2]] == at
    assert [draws for _, draws in stage.validated] == [-1, -2] * len(at)


@pytest.mark.parametrize(
    ("every", "keep", "kept"), [(2, 9, [2, 4, 5]), (1, 2, [4, 5]), (9, 1, [5]), (2, 1, [5])]
)
def test_checkpoints_are_written_every_so_many_steps_and_the_newest_kept(
    every, keep, kept, tmp_path
):
    # The average of the weights is best at the end, so that the best is no other than the last.
    fitted(tmp_path, [1] * 5, checkpoint_every=every, keep_checkpoints=keep)
    assert [path.name for path in checkpoints(tmp_path)] == [f"step_{k:07d}" for k in kept]


def test_processes_have_dropout_of_their_own(tmp_path, monkeypatch):
    one = fitted(tmp_path / "one", [1] * 3)
    monkeypatch.setattr(Numbers, "global_rank", 1)
    other = fitted(tmp_path / "other", [1] * 3)
    assert not set(one.seeds) & set(other.seeds)


class Steep(Numbers):
    """At the third step the loss is 0 and its gradient infinite."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return (loss - loss.detach()).sqrt() if self.global_step == 2 else loss


def test_a_gradient_that_is_no_number_ends_the_run_though_the_loss_is_one(tmp_path):
    with pytest.raises(UserError, match=r"^step 3: the loss or its gradient is not a number"):
        fitted(tmp_path, [1] * 5, kind=Steep)


def test_the_steps_after_the_last_written_one_are_looked_at_too(tmp_path, monkeypatch):
    """Where looking costs time it is done now and then, here at step 1; step 3 is the last."""

    def look(keeper, step):
        keeper._next_look = step + 9

    monkeypatch.setattr(L.Trainer, "world_size", property(lambda trainer: 2))
    monkeypatch.setattr(CheckpointCallback, "_look", look)
    with pytest.raises(UserError, match=r"^step 3: the loss or its gradient is not a number"):
        fitted(tmp_path, [1] * 3, kind=Steep, log_every=2)
    assert checkpoints(tmp_path) == []


@pytest.mark.parametrize("accumulate", [1, 4])
def test_samples_per_second_are_those_of_the_clock(accumulate, tmp_path, monkeypatch):
    """Micro-batches of 2 seconds after a second's wait; what callbacks and validation take is not
    counted, nor is the first step."""
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    class Slow(Numbers):
        def training_step(self, batch, batch_idx):
            clock[0] += 2.0 if self.global_step else 50.0
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch, batch_idx):
            clock[0] += 100.0

    class Expensive(L.Callback):
        """Draws images or writes a checkpoint."""

        def on_train_batch_end(self, *args, **kwargs):
            clock[0] += 10.0

    class Waiting(L.Callback):
        """The first of the callbacks: data has just arrived."""

        def on_train_batch_start(self, *args, **kwargs):
            clock[0] += 1.0

    throughput = Throughput(accumulate, 1, lambda: 0)
    callbacks = [Waiting(), throughput, Expensive()]
    fitted(tmp_path, [1] * 5 * accumulate, kind=Slow, callbacks=callbacks, accumulate=accumulate)
    assert throughput.steps == 4
    assert throughput.samples_per_second == pytest.approx(1 / 3)  # of one sample in 3 seconds
    assert throughput.waited / throughput.seconds == pytest.approx(1 / 3)
    rows = [row for row in read_metrics(tmp_path / "metrics.jsonl") if "samples_per_second" in row]
    assert [row["step"] for row in rows] == [2, 3, 4, 5]  # once per step


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_logged_loss_is_the_mean_over_the_micro_batches(accumulate, tmp_path):
    class Logging(Numbers):
        def training_step(self, batch, batch_idx):
            loss = batch.mean() + 0 * self.net.w.mean()
            positive = (batch > 0).sum()
            self.log_loss("train", {"loss": loss, "positive": Mean(batch.sum(), positive)}, 1)
            return loss

    fitted(tmp_path, [1, 5, 0, 4], kind=Logging, accumulate=accumulate)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    losses = [row["train/loss"] for row in rows if "train/loss" in row]
    assert losses == ([1, 5, 0, 4] if accumulate == 1 else [3, 2])
    positive = [row["train/positive"] for row in rows if "train/positive" in row]
    assert positive[:2] == ([1, 5] if accumulate == 1 else [3, 4])  # a mean of none counts nothing
