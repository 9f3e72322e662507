"""Sampling in the precision that a user names."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

from unclip import Pipeline
from unclip.cli import main
from unclip.common.errors import UserError
from unclip.pipeline.precision import choose_precision
from unclip.pipeline.settings import Settings

CAPTIONS, SEEDS = ["a red circle", "a blue square"], [0, 1]
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def psnr(found: Tensor, wanted: Tensor) -> float:
    """Decibels between images in [-1, 1]."""
    return -10 * math.log10((found - wanted).square().mean().item() / 4)


@pytest.fixture
def fake_gpu(monkeypatch):
    """A function that gives the machine an NVIDIA GPU of a compute capability."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32

    def have(*capability: int) -> str:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        return "cuda"

    yield have
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize(
    ("capability", "name", "dtype", "tf32"),
    [
        ((9, 0), "auto", torch.bfloat16, False),
        ((8, 0), "auto", torch.bfloat16, False),
        ((7, 5), "auto", torch.float16, False),  # a T4 emulates bfloat16
        ((8, 6), "tf32", torch.float32, True),
        ((8, 6), "32", torch.float32, False),
    ],
)
def test_a_gpu_gets_what_it_is_fast_in(fake_gpu, capability, name, dtype, tf32):
    assert choose_precision(name, fake_gpu(*capability)) == dtype
    assert torch.backends.cuda.matmul.allow_tf32 == torch.backends.cudnn.allow_tf32 == tf32


def test_a_cpu_samples_in_float32_unless_told():
    assert choose_precision("auto", "cpu") == torch.float32


@pytest.mark.parametrize("name", ["tf32", "bf16"])
def test_an_old_gpu_refuses_what_it_lacks(fake_gpu, name):
    with pytest.raises(UserError, match=rf"^--precision {name}: .*; use (32|fp16)$"):
        choose_precision(name, fake_gpu(7, 5))


def test_a_cpu_refuses_tf32_before_anything_is_loaded(capsys, cascade, tmp_path):
    words = ["sample", "a", "--pipeline", str(cascade), "--out", str(tmp_path / "out")]
    assert main([*words, "--precision", "tf32"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match=r"^precision half: must be one of auto, 32"):
        Pipeline.load(cascade, precision="half")


@pytest.mark.parametrize("name", HALVES)
@pytest.mark.parametrize("prior", ["prior", "ar_prior"])
def test_half_precision_draws_nearly_the_same(cascade, name, prior):
    """Weights and products in half precision; noise, schedule and statistics in float32."""

    def load(precision: str) -> Pipeline:
        return Pipeline.from_artifacts(
            clip=cascade / "clip",
            prior=cascade / prior,
            decoder=cascade / "decoder",
            upsamplers=[cascade / "upsampler"],
            precision=precision,
        )

    exact, pipeline = load("32").generate(CAPTIONS, SEEDS), load(name)
    parts = pipeline.cascade
    for part in (parts.prior, parts.decoder, *parts.upsamplers):
        assert {p.dtype for p in part.net.parameters()} == {HALVES[name]}
        assert all(b.dtype not in HALVES.values() for b in part.net.buffers())
    assert {p.dtype for p in parts.clip.model.parameters()} == {torch.float32}
    found = pipeline.generate(CAPTIONS, SEEDS)
    assert torch.equal(found.image, pipeline.generate(CAPTIONS, SEEDS).image)
    assert found.image.dtype == torch.float32
    assert not torch.equal(found.image, exact.image)
    assert psnr(found.image, exact.image) > 40


def test_a_cascade_keeps_the_precision_it_was_given(cascade):
    pipeline = Pipeline.load(cascade, precision="bf16")
    settings = Settings({"decoder": {"steps": 3}})
    nets = copy.deepcopy(pipeline.cascade.decoder.net)
    pipeline.generate(CAPTIONS, SEEDS, settings=settings)
    for before, after in zip(nets.parameters(), pipeline.cascade.decoder.net.parameters()):
        assert after.dtype == torch.bfloat16
        assert torch.equal(before, after)


def test_images_are_manipulated_in_half_precision_too(cascade):
    exact, half = Pipeline.load(cascade), Pipeline.load(cascade, precision="fp16")
    settings = Settings({"decoder": {"steps": 2}})
    image = exact.generate(CAPTIONS, SEEDS).image
    for manipulate in (
        lambda p: p.reconstruct(p.encode(image, settings=settings), settings=settings).image,
        lambda p: p.vary(image, 0.5, [0, 1], settings=settings).image,
    ):
        wanted, found = manipulate(exact), manipulate(half)
        assert found.dtype == torch.float32
        assert psnr(found, wanted) > 40


def test_what_leaves_inference_can_be_changed_and_trained_on(cascade):
    pipeline = Pipeline.load(cascade)
    found = pipeline.generate(CAPTIONS, SEEDS)
    latents = pipeline.encode(found.image)
    for tensor in (*found, *latents, pipeline.cascade.embed_captions(CAPTIONS)):
        assert not tensor.is_inference()
        assert not tensor.requires_grad
        tensor.mul_(1.0)
        (torch.ones_like(tensor, requires_grad=True) * tensor).sum().backward()
