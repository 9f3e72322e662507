"""A run that ends when nothing becomes better, with the weights that were best."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from unclip.common.errors import UserError
from unclip.config.load import load_experiment, merge_overrides
from unclip.runs import train as training
from unclip.runs.train import train
from unclip.stages.upsampler.stage import UpsamplerStage
from unclip.tracking.files import read_metrics
from unclip.training.callbacks import Samples, Throughput

LOSSES = {2: 5.0, 4: 3.0, 6: 4.0, 8: float("nan"), 10: 2.0, 12: 1.0}  # by step


@pytest.fixture
def load(minute_experiment, tmp_path, monkeypatch):
    """The experiment, whose validations have the losses above."""

    def validation_step(self, batch, batch_idx):
        loss = torch.tensor(LOSSES[self.trainer.global_step])
        self.log("val/loss", loss, on_epoch=True, batch_size=4)

    monkeypatch.setattr(UpsamplerStage, "validation_step", validation_step)

    def load(run, *more):
        given = {
            "run.dir": tmp_path / run,
            "trainer.max_steps": 12,
            "trainer.val_every": 2,
            "trainer.checkpoint_every": 3,
            "trainer.early_stopping": 2,
        }
        words = [f"{k}={v}" for k, v in given.items()]
        return load_experiment(str(minute_experiment("upsampler")), merge_overrides(words, more))

    return load


def weights(folder):
    return load_file(folder / "artifact" / "weights.safetensors")


def average(folder, step):
    """The averaged weights of a checkpoint."""
    found = load_file(folder / f"checkpoints/step_{step:07d}/rank_00000.safetensors")
    return {k.removeprefix("net.ema."): v for k, v in found.items() if k.startswith("net.ema.")}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def validations(folder):
    rows = read_metrics(folder / "metrics.jsonl")
    return [(row["step"], row["val/loss"]) for row in rows if "val/loss" in row]


def test_it_ends_with_the_best_weights_and_stays_ended(load, tmp_path, capfd):
    finished = train(load("run"))
    folder, summary = tmp_path / "run", finished.summary
    assert (summary["steps"], summary["best_step"], summary["stopped_early"]) == (8, 4, True)
    assert same(weights(folder), average(folder, 4))
    assert not same(average(folder, 4), average(folder, 8))
    assert [path.name for path in (folder / "samples").iterdir()] == ["step_0000008.png"]
    assert [value for _, value in validations(folder)] == [5.0, 3.0, 4.0]
    assert not any("val/psnr" in row for row in read_metrics(folder / "metrics.jsonl"))  # of step 8
    said = "ended after step 8; the weights are those of step 4, the best"
    assert said in capfd.readouterr().err
    before = (folder / "summary.json").read_bytes()
    train(load("run", "trainer.max_steps=20"), resume=True)
    assert "has finished, at step 8, where nothing became better" in capfd.readouterr().out
    assert (folder / "summary.json").read_bytes() == before


@pytest.mark.slow
def test_a_run_that_gets_better_to_its_end_is_as_without(load, tmp_path):
    kept = train(load("kept", "trainer.early_stopping=3")).summary
    train(load("plain", "trainer.early_stopping=0"))
    assert (kept["steps"], kept["best_step"], kept["stopped_early"]) == (12, 12, False)
    assert same(weights(tmp_path / "kept"), weights(tmp_path / "plain"))


def test_what_was_best_is_taken_at_the_end_of_the_steps_too(load, tmp_path):
    train(load("run", "trainer.max_steps=6"))
    assert same(weights(tmp_path / "run"), average(tmp_path / "run", 4))


@pytest.mark.slow
@pytest.mark.parametrize(
    "step", [6, *(pytest.param(each, marks=pytest.mark.slow) for each in (3, 4, 7))]
)
def test_killed_and_resumed_it_stops_where_it_would_have(load, tmp_path, monkeypatch, step):
    train(load("whole"))

    def killed(self, trainer, *args, **kwargs):
        if trainer.global_step == step:
            raise MemoryError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(Throughput, "on_train_batch_start", killed)
        with pytest.raises(MemoryError):
            train(load("parts"))
    train(load("parts"), resume=True)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert same(weights(whole), weights(parts))
    assert validations(whole) == validations(parts)
    best = [json.loads((run / "checkpoints/best.json").read_text()) for run in (whole, parts)]
    assert best[0] == best[1]


def test_an_end_that_was_not_reached_is_made_again(load, tmp_path, monkeypatch):
    train(load("whole"))

    def killed(*args, **kwargs):
        raise MemoryError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(training, "finish", killed)
        with pytest.raises(MemoryError):
            train(load("parts"))
    drawn = []
    draw = Samples.draw
    monkeypatch.setattr(Samples, "draw", lambda *given: drawn.append(1) or draw(*given))
    finished = train(load("parts"), resume=True)
    assert (finished.summary["steps"], drawn) == (8, [1])
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    assert validations(tmp_path / "whole") == validations(tmp_path / "parts")


def test_without_validations_there_is_nothing_to_judge_by(load):
    with pytest.raises(UserError, match=r"trainer\.early_stopping.*trainer\.val_every must be"):
        load("run", "trainer.val_every=0")
