"""Every stage's hooks with its network and batches on a GPU that is not there (`fake_gpu`)."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fake_gpu import GPU, FakeGpu, bf16_autocast

from unclip.common import devices
from unclip.config.load import load_experiment
from unclip.runs.parents import parents
from unclip.runs.train import assemble
from unclip.stages import registry
from unclip.training import ema

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def experiments():
    """(stage, name) of all tiny experiments that train."""
    for path in sorted(EXPERIMENTS.glob("*/*tiny.yaml")):
        resolved = load_experiment(f"{path.parent.name}/{path.stem}", [])
        if resolved.stage.trains:
            yield resolved.stage.name, resolved.name


TINY = list(experiments())
TWICE = ["data.batch_size=8", "trainer.accumulate=2"]
TEXT = [f"model.text.{k}" for k in ("context=16", "width=32", "layers=1", "heads=2")]
WORDS = ["model.use_caption=true", "drop_caption=0.5", *TEXT]
ADDITIVE = ["model.unet.time=additive", "model.last_step=true", "diffusion.variance=fixed_small"]
MINUTE = [
    ("clip", [*TWICE, "optim.sam_rho=0.05"]),
    ("clip", ["model.vision=resnet", "model.vision_stages=[1,1,1,1]", "model.image_size=32"]),
    ("prior", ["diffusion.timesteps=importance", "optim.name=muon", *TWICE]),
    ("prior", ["model.standardise=true", "sampler.sampler=dpmpp_2m"]),
    ("prior", ["model.null_text=caption", "drop_text=0.5", "model.caption=bpe"]),
    ("ar_prior", ["sampler.top_p=0.9", "sampler.top_k=3", "sampler.guidance=2"]),
    ("ar_prior", ["model.caption=bpe", *TEXT]),
    ("decoder", ["noise_z_i=0.1", "optim.name=muon", "drop_caption=0.5", *TWICE]),
    ("decoder", ["embedding=text", "model.caption=clip", "model.context_mask=true"]),
    ("decoder", ["model.inpaint=true", "sampler.clip=dynamic"]),
    ("decoder", ["model.use_z_i=false", "diffusion.timesteps=importance"]),
    ("upsampler", ["corruption.kind=bsr", "corruption.probability=1"]),
    ("upsampler", ["corruption.kind=bsr_light", "data.batch_size=8"]),
    ("upsampler", ["corruption.kind=none", "model.noise_levels=4", "model.inpaint=true"]),
    ("upsampler", [*ADDITIVE, "sampler.sampler=ddpm", "model.low_8_bit=true"]),
    ("upsampler", ["model.unet.attention=[32]", "model.unet.head_channels=16", *WORDS]),
]
CASES = [("decoder", [])] + [(name, []) for _, name in TINY] + MINUTE
QUICK = {
    "model.null_text=caption",
    "model.noise_levels=4",
    "optim.sam_rho=0.05",
    "sampler.top_p=0.9",
}
LARGE = {
    "prior/laion_tiny",
    "prior/ar_tiny",
    "upsampler/tiny",
    "decoder/tiny",
    "prior/diffusion_tiny",
    "upsampler/1024_tiny",
    "upsampler/256_tiny",
}


def params() -> list:
    """Those whose bugs no other finds, and all stages, are not slow."""
    found = []
    for name, more in CASES:
        slow = name in LARGE or (more and not QUICK & set(more))
        marks = [pytest.mark.slow] if slow else []
        found.append(pytest.param(name, more, id=",".join([name, *more]), marks=marks))
    return found


def test_every_stage_that_trains_has_a_tiny_experiment():
    """So that a new one is covered."""
    assert {row.name for row in registry.STAGES.values() if row.trains} == {s for s, _ in TINY}


@pytest.fixture(autouse=True, params=[False, pytest.param(True, marks=pytest.mark.slow)])
def narrow(request, monkeypatch):
    """The same on a device without float64, as a Mac's."""
    if request.param:
        monkeypatch.setattr(FakeGpu, "narrow", True)
        monkeypatch.setattr(devices, "NARROW", ("mps", "cuda"))


@pytest.fixture
def assemble_on_gpu(cascade, minute_experiment, tmp_path, monkeypatch):
    """Data and stage of an experiment, prepared on the GPU."""

    def of(name, more):
        given = [f"run.dir={tmp_path}", "data.num_workers=0", "data.val_samples=4", *more]
        if "/" in name:
            given += ["data.batch_size=4"]
        experiment = name if "/" in name else str(minute_experiment(name))
        resolved = load_experiment(experiment, given)
        given += [f"{kind}={cascade / kind}" for kind in resolved.stage.parents]
        if hasattr(getattr(resolved.config, "sampler", None), "steps"):
            given.append("sampler.steps=2")
        resolved = load_experiment(experiment, given)
        monkeypatch.setattr("unclip.runs.train.device_of", lambda _: GPU)
        return assemble(resolved, parents(resolved))

    return of


class Loop:
    """What Lightning does around a stage's hooks, as far as they ask for it."""

    def __init__(self, stage, data):
        self.stage = stage
        config = stage.experiment.trainer
        strategy = SimpleNamespace(root_device=GPU)
        stage._trainer = SimpleNamespace(
            accumulate_grad_batches=config.accumulate,
            global_step=0,
            global_rank=0,
            world_size=1,
            strategy=strategy,
            val_dataloaders=data.val_dataloader(),
            is_global_zero=True,
        )
        self.train = [b for _, b in zip(range(config.accumulate), data.train_dataloader())]
        self.held_out = next(iter(data.val_dataloader()))
        stage.log = lambda name, value, **kwargs: None

    def batch(self, batch):
        return self.stage.transfer_batch_to_device(batch, GPU, 0)


@pytest.fixture
def no_backward(monkeypatch):
    """Zeros in place of gradients."""

    def grad(_, leaves, **kwargs):
        return [torch.zeros_like(leaf) for leaf in leaves]

    monkeypatch.setattr(torch.autograd, "grad", grad)
    monkeypatch.setattr(torch.Tensor, "backward", lambda self: None)


@pytest.mark.usefixtures("no_backward")
@pytest.mark.parametrize(("name", "more"), params())
def test_a_stage_leaves_nothing_on_the_cpu(assemble_on_gpu, name, more):
    with FakeGpu() as gpu, bf16_autocast():
        data, stage, *_ = assemble_on_gpu(name, more)
        loop = Loop(stage, data)
        stage.to(GPU)
        stage.on_fit_start()
        stage.on_train_start()
        optimizer = stage.configure_optimizers()["optimizer"]
        for p in stage.net.parameters():
            p.grad = torch.zeros_like(p)
        before = gpu.reads
        for k, batch in enumerate(loop.train):
            batch = loop.batch(batch)
            stage.on_train_batch_start(batch, k)
            assert stage.training_step(batch, k).device == GPU
            stage.on_after_backward()
        stage.configure_gradient_clipping(optimizer, 1.0)
        optimizer.step()
        if stage.ema is not None:
            ema.update(stage.ema, stage.net, 0.9)
        assert gpu.reads == before  # no step waits
        with torch.no_grad():
            batch = loop.batch(loop.held_out)
            stage.on_validation_epoch_start()
            stage.validation_step(batch, 0)
            stage.on_validation_epoch_end()
            stage.preview(batch)
            stage.overfit_scores(batch)
        stage.on_train_end()
    assert gpu.operators > 100
