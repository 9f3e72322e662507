"""`evaluation.every`: samples measured while a stage trains, and the best checkpoint by them."""

from __future__ import annotations

import json

import pytest
import torch

from unclip.common.errors import UserError
from unclip.common.images import to_uint8
from unclip.config.load import load_experiment
from unclip.evaluation.metrics import kernels
from unclip.runs import evaluating
from unclip.runs.train import train

EVERY = ["evaluation.every=1"]


@pytest.fixture
def run(minute_experiment, cascade, tmp_path):
    """Trains a minute decoder or upsampler with ten validation samples."""

    def trained(folder, *given, kind="decoder", resume=False):
        words = [f"run.dir={tmp_path / folder}", "data.val_samples=10", "trainer.val_every=1"]
        words += [f"clip={cascade / 'clip'}"] if kind == "decoder" else []
        words = [word for word in words if word.split("=")[0] not in str(given)] + list(given)
        return train(load_experiment(str(minute_experiment(kind)), words), resume=resume)

    return trained


def logged(folder):
    rows = [json.loads(row) for row in (folder / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["val/kid_own"] for row in rows if "val/kid_own" in row}


def test_samples_of_one_half_are_measured_against_the_other(run, cascade, monkeypatch):
    from unclip.stages.clip.part import load

    seen = []

    def watched(made, real):
        seen.append((made, real))
        return kernels.kid(made, real)

    monkeypatch.setattr(evaluating, "kid", watched)
    done = run("a", "evaluation.every=2", "trainer.max_steps=3")
    assert [(len(made), len(real)) for made, real in seen] == [(5, 5), (5, 5)]  # steps 2 and 3
    found = logged(done.folder)
    assert list(found.values()) == [pytest.approx(kernels.kid(*pair)[0]) for pair in seen]
    assert torch.equal(seen[0][1], seen[1][1])
    assert not torch.equal(seen[0][0], seen[1][0])
    config = load_experiment(str(done.folder / "experiment.yaml"), []).config
    from unclip.data.sources import open_splits

    held_out = open_splits(config.data, image_size=16).held_out
    images = torch.stack([torch.from_numpy(held_out[k].image) for k in range(5, 10)])
    clip = load(cascade / "clip").model
    pixels = images.permute(0, 3, 1, 2).float() / 127.5 - 1
    assert (to_uint8(pixels) == images.numpy()).all()
    with torch.no_grad():
        assert torch.allclose(seen[0][1].float(), clip.encode_image(pixels), atol=1e-5)
    assert done.summary["quality"] == {
        "name": "val/kid_own",
        "value": pytest.approx(list(found.values())[-1]),
    }
    best = json.loads((done.folder / "checkpoints/best.json").read_text())
    assert best["name"] == "val/kid_own"
    assert best["value"] == min(found.values())


@pytest.mark.slow
def test_a_resumed_run_has_the_same_figures(run):
    whole = run("whole", "evaluation.every=2", "trainer.max_steps=6", "trainer.checkpoint_every=1")
    steps = ("evaluation.every=2", "trainer.checkpoint_every=1")
    run("parts", *steps, "trainer.max_steps=3")
    parts = run("parts", "trainer.max_steps=6", resume=True)
    found = logged(whole.folder)
    assert len(found) == 3  # after steps 2, 4 and 6
    resumed = logged(parts.folder)
    assert {step: resumed[step] for step in found} == found


@pytest.mark.slow
def test_an_upsampler_is_judged_by_the_network_it_names(run, cascade):
    done = run(
        *("up", f"evaluation.features=own:{cascade}", "evaluation.every=1"), kind="upsampler"
    )
    assert len(logged(done.folder)) == 3


@pytest.mark.parametrize(
    ("kind", "given", "said"),
    [
        ("upsampler", [], "evaluation.features: this stage has no CLIP of its own"),
        ("decoder", ["evaluation.features=inceptoin"], "evaluation.features inceptoin: no such"),
        ("decoder", ["data.val_samples=3"], "evaluation.every: 3 samples held out"),
        ("decoder", ["evaluation.every=-1"], "evaluation.every"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_training(run, kind, given, said, tmp_path):
    with pytest.raises(UserError, match=said):
        run("bad", *given, *([] if "evaluation.every" in str(given) else EVERY), kind=kind)
    assert not (tmp_path / "bad/checkpoints").exists()
