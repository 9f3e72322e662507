"""`trainer.accumulate` changes what is held at once, not what is trained, logged or validated."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from unclip.config.load import load_experiment
from unclip.runs.train import train
from unclip.tracking.files import curves, read_metrics
from unclip.training.stage import Stage

STAGES = ("clip", "prior", "ar_prior", "decoder", "upsampler")
MORE = {
    "clip": ["optim.sam_rho=0.05"],
    "prior": ["diffusion.timesteps=importance", "diffusion.steps=8", "drop_text=0.3"],
    # Each micro-batch draws its own masks of dropout.
    "decoder": ["model.unet.dropout=0", "noise_z_i=0.2"],
    "upsampler": ["model.unet.dropout=0", "corruption.kind=blur", "corruption.probability=0.5"],
}


@pytest.fixture(scope="module")
def metrics(cascade, minute_experiment):
    """Every logged value of a stage's run in a folder, by name: its steps and values."""

    def run(kind, folder, accumulate, steps, *more):
        given = [
            # Else a gradient that is 0 but for rounding moves a weight by a whole learning rate.
            *(f"run.dir={folder}", f"trainer.accumulate={accumulate}", "optim.eps=1e-6"),
            *(
                f"trainer.max_steps={steps}",
                "trainer.val_every=2",
                "data.val_samples=6",
                *MORE.get(kind, ()),
                *more,
            ),
        ]
        if kind not in ("clip", "upsampler"):
            given.append(f"clip={cascade / 'clip'}")
        if kind == "ar_prior":
            given.append(f"pca={cascade / 'pca'}")
        train(load_experiment(str(minute_experiment(kind)), given))
        return curves(read_metrics(folder / "metrics.jsonl"))

    return run


def assert_same(found, expected):
    timed = ("samples_per_second", "data_wait", "peak_memory_gib")
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        if name not in timed:
            assert found[name] == [
                (step, pytest.approx(value, rel=1e-5, abs=1e-5, nan_ok=True))
                for step, value in values
            ], name


@pytest.mark.parametrize(
    "kind",
    [k if k != "decoder" else pytest.param(k, marks=pytest.mark.slow) for k in STAGES],
)
def test_a_batch_in_micro_batches_trains_the_same(metrics, tmp_path, kind):
    whole = metrics(kind, tmp_path / "1", 1, 3)
    for accumulate in (2, 4):
        found = metrics(kind, tmp_path / str(accumulate), accumulate, 3)
        assert_same(found, whole)


@pytest.mark.slow
@pytest.mark.parametrize("kind", STAGES)
def test_twenty_steps_of_micro_batches_have_the_losses_of_whole_batches(metrics, tmp_path, kind):
    whole = metrics(kind, tmp_path / "1", 1, 20)
    for accumulate in (2, 4):
        assert_same(metrics(kind, tmp_path / str(accumulate), accumulate, 20), whole)


@pytest.mark.parametrize("held", [[4, 4, 2], [2, 2, 2, 2, 2], [4, 2, 2, 2], [1] * 10])
def test_each_validation_sample_has_draws_of_its_own_however_many_are_held(held):
    config = SimpleNamespace(trainer=SimpleNamespace(seed=3), data=SimpleNamespace(batch_size=4))

    def draws(batches: list[int]) -> torch.Tensor:
        stage = SimpleNamespace(
            experiment=config,
            device="cpu",
            step_random=Stage.step_random,
            _validation_batches=batches,
        )
        each = (Stage.validation_rng(stage, k).normal("t", (n,)) for k, n in enumerate(batches))
        return torch.cat(list(each))

    assert len(set(draws(held).tolist())) == 10
    assert torch.equal(draws(held), draws([4, 4, 2]))
