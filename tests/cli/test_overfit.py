"""`unclip overfit` passes a sound stage, fails a broken one, and leaves nothing behind."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from unclip.cli import main
from unclip.common.fields import leaves
from unclip.config.files import experiment_files
from unclip.config.load import load_experiment
from unclip.data.batches import ClipBatch, UpsamplerBatch
from unclip.runs import overfit
from unclip.stages._prior.stage import PriorStage
from unclip.stages.diffusion_prior.network import DiffusionPrior
from unclip.training.stage import Score, own_nearest


@pytest.fixture
def call(cascade, minute_experiment, tmp_path, monkeypatch, capsys):
    """Runs the check of a minute stage; (exit status, its line)."""
    monkeypatch.chdir(tmp_path)

    def run(kind: str, *more: str) -> tuple[int, str]:
        words = ["overfit", str(minute_experiment(kind)), *more]
        if kind not in ("clip", "upsampler"):
            words.append(f"clip={cascade / 'clip'}")
        if kind == "ar_prior":
            words.append(f"pca={cascade / 'pca'}")
        status = main(words)
        said = capsys.readouterr()
        assert list(tmp_path.iterdir()) == []
        lines = (said.err if status else said.out).strip().splitlines()
        return status, lines[-1]

    return run


@pytest.mark.parametrize(
    "kind", ["clip", pytest.param("prior", marks=pytest.mark.slow), "ar_prior"]
)
def test_a_sound_stage_passes(call, kind):
    status, line = call(kind)
    assert status == 0
    assert "memorised" in line


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["decoder", "upsampler"])
def test_a_sound_stage_of_images_passes(call, kind):
    status, line = call(kind)
    assert status == 0
    assert "PSNR" in line


def test_a_network_that_learns_nothing_fails(call, monkeypatch):
    monkeypatch.setattr(overfit, "STEPS", 30)
    forward = DiffusionPrior.forward
    monkeypatch.setattr(DiffusionPrior, "forward", lambda *a, **k: 0 * forward(*a, **k))
    status, line = call("prior")
    assert status == 2
    assert line.startswith("unclip: error: prior/prior: not memorised in 30 steps")
    before, after = line.split("loss ")[1].split(" (must fall below ")[0].split(" -> ")
    assert float(before) == pytest.approx(float(after))


@pytest.mark.slow
def test_targets_that_do_not_belong_to_their_conditions_fail(call, monkeypatch):
    monkeypatch.setattr(overfit, "STEPS", 200)
    encode = PriorStage.encode
    generator = torch.Generator().manual_seed(0)

    def shuffled(self, batch):
        pair = encode(self, batch)
        if self.training:
            order = torch.randperm(len(pair.z_i), generator=generator)
            pair = pair._replace(z_i=pair.z_i[order])
        return pair

    monkeypatch.setattr(PriorStage, "encode", shuffled)
    status, line = call("prior")
    assert status == 2
    assert "cosine" in line
    assert "must reach 0.9" in line


def test_the_check_was_a_field_in_earlier_versions(minute_experiment, cascade, tmp_path, capsys):
    words = [str(minute_experiment("clip")), f"run.dir={tmp_path}"]
    assert main(["train", *words, "check=overfit"]) == 2
    assert "check: no longer a field: use `unclip overfit NAME`" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("override", ["trainer.max_steps=3", "optim.schedule=cosine"])
def test_what_it_sets_itself_cannot_be_overridden(minute_experiment, capsys, override):
    assert main(["overfit", str(minute_experiment("clip")), override]) == 2
    key = override.partition("=")[0]
    assert f"{key}: `unclip overfit` sets it to" in capsys.readouterr().err


def test_what_is_fitted_has_nothing_to_memorise(minute_experiment, cascade, capsys):
    words = [str(minute_experiment("pca")), f"clip={cascade / 'clip'}"]
    assert main(["overfit", *words]) == 2
    assert "is fitted, not trained" in capsys.readouterr().err


def test_what_is_not_a_number_does_not_pass():
    good = [Score("cosine", 0.95, 0.9)]
    assert overfit.Overfitted(1.0, 0.1, good).passed
    assert not overfit.Overfitted(1.0, 0.9, good).passed
    assert not overfit.Overfitted(1.0, math.nan, good).passed
    assert not overfit.Overfitted(1.0, 0.1, [Score("cosine", math.nan, 0.9)]).passed
    assert not overfit.Overfitted(1.0, 0.1, [*good, Score("PSNR", 14.9, 15.0)]).passed


def test_a_sharded_experiment_is_overfitted_by_one_process(minute_experiment):
    more = ["trainer.strategy=fsdp", "trainer.cpu_offload=true", "trainer.nodes=2"]
    experiment = load_experiment(str(minute_experiment("upsampler")), more).config
    overfit.simplify(experiment)
    trainer = experiment.trainer
    assert (trainer.strategy, trainer.cpu_offload, trainer.processes) == ("auto", False, 1)


def test_nothing_is_dropped_corrupted_or_guided():
    for name, path in experiment_files():
        experiment = load_experiment(str(path)).config
        if experiment.stage == "pca":
            continue
        overfit.simplify(experiment)
        experiment.validate()
        assert (experiment.trainer.strategy, experiment.trainer.processes) == ("auto", 1), name
        flat = dict(leaves(dataclasses.asdict(experiment)))
        drops = [v for k, v in flat.items() if k.split(".")[-1].startswith("drop")]
        assert not any(drops), name
        assert flat.get("corruption.kind", "none") == "none"
        assert flat.get("sampler.guidance", 1.0) == 1.0


class Data:
    """Data of one batch."""

    def __init__(self, batch):
        self.batch = batch

    def one_pass(self, split, limit):
        return [self.batch]


def test_no_caption_is_twice_in_the_batch_that_is_learned():
    captions = ["a", "b", "a", "c", "b", "d", "e"]
    whole = ClipBatch(torch.arange(7.0)[:, None], torch.arange(7), captions, list("tuvwxyz"))
    batch = overfit.choose(Data(whole))
    assert batch.captions == ["a", "b", "c", "d"]
    assert batch.keys == list("tuwy")
    assert batch.tokens.tolist() == [0, 1, 3, 5]


def test_an_upsampler_learns_no_blank_crops():
    contrast = torch.tensor([0, 3, 0, 1, 2, 4, 0])
    image = contrast[:, None, None, None] * torch.randn(3, 4, 4)
    batch = overfit.choose(Data(UpsamplerBatch(image, ["same"] * 7, list("tuvwxyz"))))
    assert batch.keys == list("yuxw")


def test_one_caption_is_not_enough(call, tmp_path_factory):
    from PIL import Image

    source = tmp_path_factory.mktemp("same")
    rows = []
    for k in range(100):
        Image.new("RGB", (16, 16), (k, 0, 0)).save(source / f"{k}.png")
        rows.append(f'{{"file_name": "{k}.png", "caption": "red"}}')
    (source / "metadata.jsonl").write_text("\n".join(rows))
    assert "different captions" in call("clip", f"data.source={source}")[1]


def test_own_nearest_counts_those_that_are():
    true = torch.eye(4)
    assert own_nearest(true + 0.1, true).value == 1
    assert own_nearest(true[[0, 1, 3, 2]], true).value == 0.5
