"""A run that is told to stop saves itself; one whose loss is not a number says which samples."""

from __future__ import annotations

import json
import os
import shutil
import signal
from types import SimpleNamespace

import pytest
import torch

from unclip.common.errors import Interrupted, UserError
from unclip.config.load import load_experiment, merge_overrides
from unclip.runs.train import train
from unclip.stages.upsampler.stage import UpsamplerStage
from unclip.tracking.files import read_metrics
from unclip.training import checkpoint_callback
from unclip.training.callbacks import Throughput
from unclip.training.checkpoint_callback import CheckpointCallback
from unclip.training.checkpoint_folders import checkpoints
from unclip.training.config import TrainerConfig
from unclip.training.stage import Monitor


@pytest.fixture
def load(minute_experiment, tmp_path):
    def load(*more):
        given = merge_overrides([f"run.dir={tmp_path / 'run'}"], more)
        return load_experiment(str(minute_experiment("upsampler")), given)

    return load


def steps_kept(folder):
    return [p.name for p in checkpoints(folder)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_saves_and_the_run_continues_with_the_same_bits(
    cascade, load, tmp_path, monkeypatch, number
):
    if signal.getsignal(number) is signal.SIG_IGN:  # in a shell's background, or under nohup
        signal.signal(number, signal.default_int_handler)
    before = signal.getsignal(number)

    def told(self, trainer, *args, **kwargs):
        if trainer.global_step == 0:
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patched:
        patched.setattr(Throughput, "on_train_batch_start", told)
        with pytest.raises(Interrupted, match=f"{number.name} at step 1: saved; continue with"):
            train(load())
    assert signal.getsignal(number) is before
    assert steps_kept(tmp_path / "run") == ["step_0000001"]
    train(load(), resume=True)
    found = (tmp_path / "run/artifact/weights.safetensors").read_bytes()
    assert found == (cascade / "upsampler/artifact/weights.safetensors").read_bytes()
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows if "train/loss" in row]
    assert steps == [0, 1, 2]  # none twice


def test_a_run_whose_folder_goes_does_not_end_as_if_it_were_done(load, tmp_path, monkeypatch):
    def remove(self, trainer, *args, **kwargs):
        if trainer.global_step == 1:
            shutil.rmtree(tmp_path / "run", ignore_errors=True)

    monkeypatch.setattr(Throughput, "on_train_batch_start", remove)
    with pytest.raises(UserError, match=r"experiment\.yaml is gone: the folder was removed"):
        train(load())
    assert not (tmp_path / "run" / "artifact").exists()


def test_written_steps_have_all_that_is_logged(load, tmp_path):
    train(load("trainer.max_steps=6", "trainer.log_every=2", "trainer.accumulate=2"))
    rows = [r for r in read_metrics(tmp_path / "run/metrics.jsonl") if "train/loss" in r]
    assert [row["step"] for row in rows] == [1, 3, 5]
    for row in rows:
        assert row["train/grad_norm"] > 0
        assert any(name.startswith("train/loss_q") for name in row)


def test_a_loss_that_is_no_number_names_its_samples(load, tmp_path, monkeypatch):
    loss, seen = UpsamplerStage.loss, []

    def broken(self, net, batch, draws, *, training):
        values = loss(self, net, batch, draws, training=training)
        if training and self.global_step == 4:
            seen.extend(batch.keys)
            values["loss"] = values["loss"] * torch.nan
        return values

    monkeypatch.setattr(UpsamplerStage, "loss", broken)
    with pytest.raises(UserError, match="not a number") as caught:
        train(load("trainer.max_steps=8"))
    assert f"step 5: the loss or its gradient is not a number; samples: {', '.join(seen)}; the" in (
        str(caught.value)
    )
    assert "the checkpoint before it is step_0000004" in str(caught.value)
    assert steps_kept(tmp_path / "run") == ["step_0000002", "step_0000004"]


def test_the_last_ones_and_the_best_are_kept(load, tmp_path, monkeypatch):
    values = iter([5.0, 3.0, 4.0, 6.0])  # of validation at steps 2, 4, 6, 8

    def validation_step(self, batch, batch_idx):
        self.log_loss("val", {"loss": torch.tensor(next(values))}, 4)

    monkeypatch.setattr(UpsamplerStage, "validation_step", validation_step)
    train(load("trainer.max_steps=8", "trainer.val_every=2", "trainer.keep_checkpoints=1"))
    assert steps_kept(tmp_path / "run") == ["step_0000004", "step_0000008"]
    best = json.loads((tmp_path / "run/checkpoints/best.json").read_text())
    assert best == {"step": 4, "name": "val/loss", "value": 3.0}


@pytest.mark.parametrize(
    "note",
    [
        "",
        "[]",
        '{"step": "2", "name": "val/loss", "value": 1.0}',
        '{"step": 2, "name": null, "value": 1.0}',
        '{"step": 2, "name": "val/loss", "value": null}',
        '{"step": 2, "name": "val/loss", "value": NaN}',
        "[" * 100_000,
    ],
)
def test_a_damaged_note_of_the_best_is_written_anew(tmp_path, note):
    """As a full disk or a loss of power leaves it."""
    (tmp_path / "experiment.yaml").touch()
    for step in (2, 4):
        folder = tmp_path / "checkpoints" / f"step_{step:07d}"
        folder.mkdir(parents=True)
        (folder / "manifest.json").touch()
    best = tmp_path / "checkpoints/best.json"
    best.write_text(note)
    config = TrainerConfig(keep_checkpoints=1)
    keeper = CheckpointCallback(tmp_path, config, Monitor("val/loss", "lower"))
    trainer = SimpleNamespace(
        state=SimpleNamespace(fn="fit"),
        callback_metrics={"val/loss": torch.tensor(3.0)},
        global_step=4,
        is_global_zero=True,
    )
    keeper.on_validation_end(trainer, None)
    assert json.loads(best.read_text()) == {"step": 4, "name": "val/loss", "value": 3.0}
    assert steps_kept(tmp_path) == ["step_0000004"]


def test_a_checkpoint_is_written_after_the_validation_of_its_step(load, tmp_path, monkeypatch):
    more = ["trainer.max_steps=6", "trainer.val_every=2"]
    train(load(*more, f"run.dir={tmp_path / 'whole'}"))

    def killed(self, trainer, *args, **kwargs):
        if trainer.global_step == 4:
            raise MemoryError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(Throughput, "on_train_batch_start", killed)
        with pytest.raises(MemoryError):
            train(load(*more))
    train(load(*more), resume=True)
    for kind in ("train/loss", "val/loss"):
        curves = [
            [
                (row["step"], row[kind])
                for row in read_metrics(tmp_path / run / "metrics.jsonl")
                if kind in row
            ]
            for run in ("whole", "run")
        ]
        assert curves[0] == curves[1]
    found = [
        (tmp_path / run / "artifact/weights.safetensors").read_bytes() for run in ("whole", "run")
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize(("seconds", "steps"), [(0.5, 10), (30.0, 1), (1e-4, 50)])
def test_it_looks_again_after_some_seconds_of_steps_as_long_as_the_last(
    tmp_path, monkeypatch, seconds, steps
):
    """Five seconds, at least one step and at most ``log_every``."""
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(checkpoint_callback.time, "monotonic", lambda: now.seconds)
    keeper = CheckpointCallback(tmp_path, TrainerConfig(log_every=50), Monitor("loss", "lower"))
    now.seconds = 20 * seconds
    assert keeper._look(20) is None
    assert keeper._next_look == 20 + steps
