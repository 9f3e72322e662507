"""What samples, inverts, inpaints and fits, on a GPU that is not there (`fake_gpu`)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from fake_gpu import GPU, FakeGpu

from unclip.common import devices
from unclip.common.errors import UserError
from unclip.config.load import load_experiment
from unclip.degradations.bsr import bsr
from unclip.degradations.bsr_parameters import FULL, LIGHT, UNIFORMS
from unclip.diffusion.config import INVERSIONS, SAMPLERS
from unclip.diffusion.samplers import ANALYTIC
from unclip.pipeline.cascade import open_folder
from unclip.pipeline.pipeline import Pipeline
from unclip.pipeline.sampling import noise_of
from unclip.pipeline.settings import Settings
from unclip.stages import registry
from unclip.stages.diffusion_prior.fits import fit_x0_errors
from unclip.stages.interface import LoadedParents

IMAGE = np.zeros((20, 24, 3), dtype=np.uint8)
MASK = np.zeros((20, 24), dtype=bool)


@pytest.fixture(autouse=True, params=[False, pytest.param(True, marks=pytest.mark.slow)])
def narrow(request, monkeypatch):
    """The same on a device without float64, as a Mac's."""
    if request.param:
        monkeypatch.setattr(FakeGpu, "narrow", True)
        monkeypatch.setattr(devices, "NARROW", ("mps", "cuda"))


@pytest.fixture(params=["diffusion", "ar"])
def on_gpu(cascade, request):
    """Moves the cascade there; with either prior."""
    loaded = open_folder(cascade)
    if request.param == "ar":
        part = registry.STAGES["ar_prior"].load(cascade / "ar_prior", loaded.clip)
        loaded = replace(loaded, prior=part)

    def move(dtype=None) -> Pipeline:
        return Pipeline(replace(loaded, device=GPU, dtype=dtype))

    return move


def quick(values, *few):
    """``values`` to test with, of which all but ``few`` are slow."""
    return [v if v in few else pytest.param(v, marks=pytest.mark.slow) for v in values]


def settings(**decoder) -> Settings:
    few = {"steps": 2}
    return Settings(
        {"prior": few, "decoder": {**few, **decoder}, "upsampler": few}, 64, "fixed_point", 1
    )


def check(generated):
    assert generated.image.device == generated.small.device == GPU
    assert generated.image.shape[-1] == 32


@pytest.mark.parametrize("dtype", quick([None, torch.bfloat16, torch.float16], torch.bfloat16))
def test_captions_become_images(on_gpu, dtype):
    with FakeGpu():
        pipeline = on_gpu(dtype)
        how = Settings({**settings().changes, "prior": {}}, batch=2)
        check(pipeline.generate(["a", "b", "c"], [0, 1, 2], settings=how))


LABELS = ["an apple", "an iPod"]
METHODS = {
    "reconstruct": lambda p, **how: p.reconstruct(p.encode([IMAGE], **how), **how),
    "vary": lambda p, **how: p.vary([IMAGE], 0.5, [0, 1], **how),
    "interpolate": lambda p, **how: p.interpolate([IMAGE], [IMAGE], 3, **how),
    "fixed noise": lambda p, **how: p.interpolate([IMAGE], [IMAGE], 3, noise="fixed", **how),
    "text diff": lambda p, **how: p.text_diff([IMAGE], None, "a circle", n=2, **how),
    "from a caption": lambda p, **how: p.text_diff([IMAGE], "a square", "a circle", n=2, **how),
    "by the prior": lambda p, **how: p.text_diff([IMAGE], "a", "b", direction="prior", **how),
    "principal components": lambda p, **how: p.pca_reconstructions([IMAGE], [1, 3], **how),
    "typographic": lambda p, **how: p.typographic([IMAGE], "a", LABELS, **how).variations,
    "inpaint": lambda p, **how: p.inpaint([IMAGE], [MASK], ["a"], [0], resample=2, **how),
}


@pytest.mark.parametrize("on_gpu", ["diffusion"], indirect=True)
@pytest.mark.parametrize("method", quick(METHODS, "text diff", "principal components", "inpaint"))
def test_a_manipulation(on_gpu, method):
    with FakeGpu():
        how = settings()
        if method not in ("by the prior", "inpaint"):
            how = how.without("prior")
        check(METHODS[method](on_gpu(), settings=how))


@pytest.mark.slow
@pytest.mark.parametrize("on_gpu", ["diffusion"], indirect=True)
@pytest.mark.parametrize("name", quick(sorted(set(SAMPLERS) - set(ANALYTIC)), "dpmpp_2m"))
def test_a_sampler_guided_in_an_interval(on_gpu, name):
    changes = {"sampler": name, "guidance": 2.0, "guidance_interval": [0.2, 0.8], "clip": "dynamic"}
    with FakeGpu():
        check(on_gpu().generate(["a"], [0], settings=settings(**changes)))


@pytest.mark.slow
@pytest.mark.parametrize("on_gpu", ["diffusion"], indirect=True)
@pytest.mark.parametrize("convention", quick(INVERSIONS, "fixed_point"))
def test_an_inversion(on_gpu, convention):
    with FakeGpu():
        how = replace(settings(), inversion=convention).without("prior", "upsampler")
        assert on_gpu().encode([IMAGE], settings=how).x_T.device == GPU


@pytest.mark.slow
@pytest.mark.parametrize("variant", [FULL, LIGHT], ids=["full", "light"])
def test_a_degradation(variant):
    with FakeGpu() as gpu:
        images = torch.zeros(8, 3, 32, 48, device=GPU)
        uniforms = torch.rand(8, UNIFORMS, generator=torch.Generator().manual_seed(0))
        low = bsr(images, scale=4, variant=variant, uniforms=uniforms, noise=images)
        assert low.device == GPU
        assert gpu.reads == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", quick(sorted(ANALYTIC), "analytic"))
def test_x0_errors_are_fitted_and_sampled_with(cascade, minute_experiment, name):
    clip = registry.STAGES["clip"].load(cascade / "clip")
    resolved = load_experiment(str(minute_experiment("prior")), ["sampler.steps=4"])
    data = resolved.stage.data_module(resolved.config, clip)
    data.setup()
    part = resolved.stage.load(cascade / "prior", clip)
    sampler = replace(part.sampler, sampler=name)
    how = dict(diffusion=part.diffusion, sampler=sampler, steps=4, samples=8)
    with FakeGpu():
        errors = fit_x0_errors(part.net.requires_grad_(False), clip, data, GPU, **how)
        fitted = replace(part, x0_errors={"4": errors})
        assert fitted.draw(clip.model, ["a"], noise_of([0], "prior"), sampler=sampler).is_cuda


def test_a_prior_reads_words_of_its_own(cascade, minute_experiment):
    clip = registry.STAGES["clip"].load(cascade / "clip")
    resolved = load_experiment(
        str(minute_experiment("prior")), ["model.caption=bpe", "model.context=16"]
    )
    sizes = LoadedParents(clip).sizes()
    resolved.stage.fill(resolved.config, sizes)
    net = resolved.stage.build_network(resolved.config, sizes).requires_grad_(False).eval()
    part = replace(resolved.stage.load(cascade / "prior", clip), net=net)
    with FakeGpu():
        net.to(GPU)
        clip.model.to(GPU)
        assert part.draw(clip.model, ["a"], noise_of([0], "prior")).is_cuda


@pytest.mark.slow
def test_a_pca_is_fitted(cascade, minute_experiment):
    clip = registry.STAGES["clip"].load(cascade / "clip")
    resolved = load_experiment(str(minute_experiment("pca")), [])
    data = resolved.stage.data_module(resolved.config, clip)
    data.setup()
    with FakeGpu() as gpu, pytest.raises(UserError, match=r"^pca: "):  # all are made up, and alike
        resolved.stage.fit(resolved.config, clip, data, GPU)
    assert gpu.reads > 0
