"""The degradation as a whole: shapes, levels, no shift, every sample for itself."""

from __future__ import annotations

import pytest
import torch
from natural import natural

from unclip.common.errors import UserError
from unclip.degradations.blur import gaussian_blur
from unclip.degradations.bsr import apply, bsr
from unclip.degradations.bsr_parameters import FULL, LIGHT, NOISE, UNIFORMS, draw_parameters
from unclip.degradations.config import CorruptionConfig
from unclip.degradations.jpeg import jpeg
from unclip.nn.config import UNetConfig
from unclip.stages.upsampler.config import UpsamplerExperiment
from unclip.stages.upsampler.stage import UpsamplerStage
from unclip.training.random import StepRandom

BOTH = pytest.mark.parametrize("variant", [FULL, LIGHT], ids=["full", "light"])


def chance(count, seed=0):
    return torch.rand(count, UNIFORMS, generator=torch.Generator().manual_seed(seed))


def noise_like(images, seed=1):
    return torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))


def pictures(count, height, width):
    return torch.stack([natural(height, width, seed) for seed in range(count)]) * 2 - 1


def degraded(images, variant, scale=4):
    return bsr(
        images,
        scale=scale,
        variant=variant,
        uniforms=chance(len(images)),
        noise=noise_like(images),
    )


@BOTH
@pytest.mark.parametrize(
    ("scale", "shape"), [(2, (48, 36)), (3, (48, 36)), (4, (64, 96)), (8, (64, 96))]
)
def test_shape_and_levels(variant, scale, shape):
    found = degraded(pictures(6, *shape), variant, scale)
    assert found.shape == (6, 3, shape[0] // scale, shape[1] // scale)
    steps = (found + 1) * 127.5
    torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-4)
    assert steps.min() >= 0
    assert steps.max() <= 255


@BOTH
def test_every_sample_is_degraded_in_its_own_way(variant):
    images = natural(64, 64)[None].expand(8, -1, -1, -1) * 2 - 1
    flat = degraded(images, variant).flatten(1)
    assert (torch.cdist(flat, flat) + torch.eye(8) * 9).min() > 0.1


@BOTH
def test_a_sample_is_the_same_bit_for_bit_in_any_batch(variant):
    images, uniforms = pictures(8, 64, 96), chance(8)
    noise = noise_like(images)
    parts = [slice(0, 8), slice(0, 3), slice(3, 8)]
    whole, first, second = (
        bsr(images[s], scale=4, variant=variant, uniforms=uniforms[s], noise=noise[s])
        for s in parts
    )
    assert torch.equal(whole, torch.cat([first, second]))


@BOTH
def test_the_order_of_the_pixels_in_memory_does_not_matter(variant):
    images = pictures(4, 64, 96)
    interleaved = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(degraded(interleaved, variant), degraded(images, variant))


@BOTH
@pytest.mark.parametrize("shape", [(64, 64), (64, 96)])
def test_one_canvas_gives_what_single_samples_give(variant, shape):
    images, uniforms = pictures(24, *shape), chance(24, seed=5)
    noise = noise_like(images)
    alone = bsr(images, scale=4, variant=variant, uniforms=uniforms, noise=noise)
    parameters = draw_parameters(uniforms, scale=4, variant=variant)
    together = apply(images, parameters, noise, scale=4)
    wrong = (together - alone).abs() * 127.5
    assert (wrong > 1.01).float().mean() < 1e-3
    assert wrong.mean() < 0.01


@BOTH
def test_a_constant_image_stays_constant_but_for_the_noise(variant):
    levels = torch.tensor([150, 77, 210]) / 127.5 - 1
    images = levels.view(1, 3, 1, 1).expand(20, 3, 64, 48)
    p = draw_parameters(chance(20), scale=4, variant=variant)
    best = torch.full_like(p.quality, 95)
    p = p._replace(noise_level=p.noise_level * 0, quality=best, final_quality=best)
    found = apply(images, p, noise_like(images), scale=4)
    assert (found - images[..., :16, :12]).abs().max() < 2.1 / 127.5  # of two codecs in a row
    assert (found - found[..., :1, :1]).abs().max() == 0


def test_the_noise_is_as_strong_as_its_level_says():
    images = torch.zeros(1, 3, 256, 256)
    p = draw_parameters(chance(1), scale=4, variant=FULL)
    order = [op for op in p.order[0].tolist() if op != NOISE]
    same = torch.tensor([[[1.0, 0.0, 0.0]] * 3])  # in all channels, so that no codec averages it
    p = p._replace(
        order=torch.tensor([[*order, NOISE]]),
        noise_mix=same.to(p.noise_mix),
        noise_level=torch.full_like(p.noise_level, 20),
        final_quality=torch.full_like(p.final_quality, 95),
    )
    found = apply(images, p, noise_like(images), scale=4)
    assert found.std().item() * 127.5 == pytest.approx(20, rel=0.05)


@BOTH
@pytest.mark.parametrize("scale", [2, 4])
def test_the_image_does_not_move(variant, scale):
    y, x = torch.meshgrid(torch.arange(96.0), torch.arange(128.0), indexing="ij")
    centre = torch.tensor([47.5, 63.5])  # elsewhere mirrored borders do attract wide blurs
    blob = torch.exp(-0.5 * ((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / 9**2)
    images = (0.1 + 0.8 * blob).expand(120, 3, -1, -1) * 2 - 1
    p = draw_parameters(chance(120), scale=scale, variant=variant)
    best = torch.full_like(p.quality, 95)
    p = p._replace(noise_level=p.noise_level * 0, quality=best, final_quality=best)
    found = torch.cat(
        [apply(images[:1], p.rows([k]), images[:1], scale=scale) for k in range(len(images))]
    )
    mass = ((found.mean(1) + 1) / 2 - 0.12).clamp(min=0)
    rows, columns = torch.arange(96.0 // scale), torch.arange(128.0 // scale)
    total = mass.sum((1, 2))
    found_y, found_x = (mass.sum(2) @ rows) / total, (mass.sum(1) @ columns) / total
    expected = (centre + 0.5) / scale - 0.5
    shift = torch.stack([found_y, found_x], dim=1) - expected
    assert shift.abs().max() < 0.25  # by reductions that skip pixels
    assert shift.mean(0).abs().max() < 0.005


def test_the_light_variant_blurs_once():
    images, p = pictures(4, 64, 64), draw_parameters(chance(4), scale=4, variant=LIGHT)
    noise = noise_like(images)
    other = p._replace(blur_variance=p.blur_variance.clone())
    other.blur_variance[:, 1] = 9.0
    assert torch.equal(apply(images, p, noise, scale=4), apply(images, other, noise, scale=4))
    other.blur_variance[:, 0] = 9.0
    assert not torch.equal(apply(images, p, noise, scale=4), apply(images, other, noise, scale=4))


def test_the_full_variant_blurs_twice_each_time_by_its_own_kernel():
    images, p = pictures(4, 64, 64), draw_parameters(chance(4), scale=4, variant=FULL)
    noise, found = noise_like(images), []
    for blur in (None, 0, 1):
        changed = p._replace(blur_variance=p.blur_variance.clone())
        if blur is not None:
            changed.blur_variance[:, blur] = 25.0
        found.append(apply(images, changed, noise, scale=4).flatten(1))
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (found[one] != found[other]).any(dim=1).all()


def test_the_full_variant_loses_more_than_the_light_one():
    images = pictures(16, 64, 64)
    clean = torch.nn.functional.avg_pool2d(images, 4)
    error = [(degraded(images, v) - clean).square().mean().item() for v in (FULL, LIGHT)]
    assert error[0] > 1.5 * error[1]


def test_mixed_precision_around_it_changes_nothing():
    images = pictures(2, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        inside = degraded(images, FULL)
    assert torch.equal(inside, degraded(images, FULL))


@pytest.fixture
def tf32():
    matmul = torch.backends.cuda.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, "tf32"
    yield matmul
    matmul.fp32_precision = before


def test_matrix_products_are_exact_inside_and_as_before_afterwards(tf32, monkeypatch):
    inside = []

    def spy(image, quality, size=None):
        inside.append(tf32.fp32_precision)
        return jpeg(image, quality, size)

    monkeypatch.setattr("unclip.degradations.bsr.jpeg", spy)
    degraded(pictures(2, 32, 32), FULL)
    assert set(inside) == {"ieee"}
    assert tf32.fp32_precision == "tf32"

    def fail(image, quality, size=None):
        raise RuntimeError("no JPEG")

    monkeypatch.setattr("unclip.degradations.bsr.jpeg", fail)
    with pytest.raises(RuntimeError, match="no JPEG"):
        degraded(pictures(2, 32, 32), FULL)
    assert tf32.fp32_precision == "tf32"


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="cannot be divided by 4"):
        degraded(torch.zeros(1, 3, 62, 64), FULL)
    with pytest.raises(ValueError, match="1 channels, not 3"):
        degraded(torch.zeros(1, 1, 64, 64), FULL)
    with pytest.raises(ValueError, match="noise"):
        bsr(
            torch.zeros(2, 3, 8, 8),
            scale=2,
            variant=FULL,
            uniforms=chance(2),
            noise=torch.zeros(1, 3, 8, 8),
        )


def stage(kind, probability=1.0):
    experiment = UpsamplerExperiment()
    experiment.model.unet = UNetConfig(channels=32, blocks=1, multiples=[1])
    experiment.corruption.kind = kind
    experiment.corruption.probability = probability
    return UpsamplerStage(experiment)


def test_processes_share_out_the_conditions_of_one():
    images, trained = pictures(6, 32, 32), stage("bsr_light", 0.7)
    whole = trained.condition(images, StepRandom(3, 1))
    for rank in range(2):
        part = trained.condition(images[rank::2], StepRandom(3, 1, rank, 2))
        assert torch.equal(part, whole[rank::2])


@pytest.mark.parametrize("kind", ["none", "blur", "bsr", "bsr_light"])
def test_what_is_not_corrupted_is_clean(kind):
    images = pictures(30, 32, 32)
    some = stage(kind, 0.5).condition(images, StepRandom(0, 0))
    trained = stage(kind)
    clean = trained.low(images)
    is_clean = (some == clean).flatten(1).all(1)
    if kind == "none":
        assert is_clean.all()
        return
    assert 5 <= is_clean.sum() <= 25
    every = trained.condition(images, StepRandom(0, 0))
    assert torch.equal(some[~is_clean], every[~is_clean])
    if kind == "blur":
        assert torch.equal(every, gaussian_blur(clean))


def test_a_batch_may_have_no_sample_to_corrupt():
    images, trained = pictures(2, 32, 32), stage("bsr", 0.0)
    assert torch.equal(trained.condition(images, StepRandom(0, 0)), trained.low(images))


def test_unknown_kinds_are_refused():
    CorruptionConfig(kind="bsr_light").validate()
    with pytest.raises(
        UserError, match=r"corruption\.kind=.*: must be one of none, blur, bsr, bsr_light"
    ):
        CorruptionConfig(kind="bsrgan").validate()
