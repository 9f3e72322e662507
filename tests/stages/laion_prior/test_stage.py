"""LAION's prior beside the two others: trained, planned, shared, evaluated and drawn from."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from unclip.cli import main
from unclip.common import artifacts
from unclip.common.errors import UserError
from unclip.common.seeding import SampleNoise
from unclip.pipeline.pipeline import Pipeline
from unclip.stages import registry

EXPERIMENT = """\
stage: laion_prior
clip: {clip}
model: {{context: 12, layers: 1, heads: 2, head_channels: 8, dropout: 0.1}}
sampler: {{steps: 4, guidance: 2.0}}
ema: {{decay: 0.9}}
data: {{source: scenes, batch_size: 4, val_samples: 4, scenes: {{count: 64}}}}
trainer: {{max_steps: 3, val_every: 0, sample_every: 0, log_every: 1, precision: "32",
          accelerator: cpu}}
"""


@pytest.fixture(scope="module")
def experiment(cascade, tmp_path_factory):
    file = tmp_path_factory.mktemp("laion") / "laion.yaml"
    file.write_text(EXPERIMENT.format(clip=cascade / "clip"))
    return file


@pytest.fixture(scope="module")
def run(experiment):
    """A trained one's folder."""
    folder = experiment.parent / "run"
    assert main(["train", str(experiment), f"run.dir={folder}"]) == 0
    return folder


def told(capsys, *words) -> str:
    capsys.readouterr()
    assert main([str(word) for word in words]) == 0
    return capsys.readouterr().out


def test_it_is_planned_with_the_parameters_that_it_has(experiment, run, capsys):
    plan = told(capsys, "plan", experiment, "--gpus", "1", "--device", "h100", "--json")
    weights = artifacts.describe(run).weights()
    assert json.loads(plan)["parameters"] == sum(
        x.numel() for name, x in weights.items() if name != "frequencies"
    )


def test_it_resumes_to_the_weights_of_a_run_in_one_go(experiment, run, tmp_path):
    part = ["train", str(experiment), f"run.dir={tmp_path / 'a'}"]
    assert main([*part, "trainer.max_steps=2"]) == 0
    assert main([*part, "trainer.max_steps=3", "--resume"]) == 0
    resumed, whole = (artifacts.describe(path).weights() for path in (tmp_path / "a", run))
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


@pytest.mark.parametrize("more", [["trainer.activation_checkpointing=full"], ["optim.name=muon"]])
def test_it_trains_by_blocks_and_with_muon(experiment, tmp_path, more):
    given = ["trainer.precision=bf16-mixed", f"run.dir={tmp_path / 'a'}", *more]
    assert main(["train", str(experiment), *given]) == 0


def test_it_is_evaluated_beside_another_prior(cascade, run, capsys):
    rows = json.loads(
        told(capsys, "evaluate", run, cascade / "prior", "--n", "8", "--json", "prior.steps=2")
    )
    assert [row["kind"] for row in rows] == ["laion_prior", "diffusion_prior"]
    assert rows[0]["training_flops"] > 0
    assert main(["fit-variance", str(run)]) == 2
    assert "laion_prior" in capsys.readouterr().err


def test_it_is_shared_and_reproduced(run, tmp_path, capsys):
    told(capsys, "share", run, "--to", tmp_path / "a.zip", "--weights")
    told(capsys, "reproduce", tmp_path / "a.zip", "--check-only")


def test_a_cascade_draws_with_it(cascade, run, tmp_path, capsys):
    words = ["sample", "a red circle", "--pipeline", cascade, "--prior", run, "--out", tmp_path]
    told(capsys, *words, "prior.sampler=ddpm", "prior.steps=3")
    with Image.open(tmp_path / "a-red-circle_seed0.png") as image:
        assert image.size == (32, 32)


def test_guidance_of_zero_reads_neither_text_nor_noise(cascade, run):
    """The unconditional network sees learned vectors alone, so its x_0 is that of any caption."""
    clip = registry.STAGES["clip"].load(cascade / "clip")
    part = registry.STAGES["laion_prior"].load(run, clip)
    sampler = part.sampler
    sampler.guidance, sampler.candidates, sampler.steps = 0.0, 1, 2
    found = part.draw(clip.model, ["a red circle", "two blue squares"], SampleNoise([1, 2]))
    torch.testing.assert_close(found[0], found[1])
    sampler.guidance = 1.0
    found = part.draw(clip.model, ["a red circle", "two blue squares"], SampleNoise([1, 2]))
    assert not torch.allclose(found[0], found[1])


def test_one_of_another_clip_is_refused(run, cascade, tmp_path, minute_experiment):
    other = tmp_path / "clip"
    assert (
        main(["train", str(minute_experiment("clip")), f"run.dir={other}", "trainer.seed=1"]) == 0
    )
    with pytest.raises(UserError, match="another CLIP"):
        Pipeline.from_artifacts(clip=other, prior=run, decoder=cascade / "decoder")


@pytest.mark.slow
def test_it_memorises_a_batch(experiment, capsys):
    told(capsys, "overfit", experiment, "optim.lr=0.003", "model.layers=2")
