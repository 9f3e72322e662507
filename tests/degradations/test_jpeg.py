"""The codec against Pillow's libjpeg."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from natural import natural
from PIL import Image

from unclip.degradations.jpeg import _constants, jpeg, quantization_tables

QUALITIES = [30, 50, 80, 95]


def saved(levels: np.ndarray, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def levels(image: torch.Tensor) -> np.ndarray:
    return (image * 255).round().byte().permute(1, 2, 0).numpy()


@pytest.mark.parametrize("quality", [1, 30, 49, 50, 75, 80, 95, 100])
def test_the_tables_are_libjpegs(quality):
    theirs = saved(np.zeros((8, 8, 3), np.uint8), quality).quantization
    ours = quantization_tables(torch.tensor([quality]))[0]
    assert ours.tolist() == [list(theirs[0]), list(theirs[1])]


@pytest.mark.parametrize("shape", [(64, 96), (67, 93), (130, 41), (17, 120)])
@pytest.mark.parametrize("quality", QUALITIES)
def test_images_come_out_as_from_libjpeg(shape, quality):
    image = natural(*shape, seed=quality)
    theirs = np.asarray(saved(levels(image), quality).convert("RGB")).astype(int)
    ours = jpeg(image[None], torch.tensor([quality]))[0]
    assert torch.equal(ours, (ours * 255).round() / 255)
    wrong = np.abs(levels(ours).astype(int) - theirs)
    assert wrong.mean() < 0.3  # levels; what is left is libjpeg's integer DCT
    assert np.quantile(wrong, 0.999) <= 6
    lost = np.abs(levels(image).astype(int) - theirs)
    assert wrong.mean() < 0.25 * lost.mean()


@pytest.mark.parametrize("quality", QUALITIES)
def test_a_constant_stays_within_a_level(quality):
    colours = torch.rand(20, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    image = ((colours * 255).round() / 255).expand(-1, -1, 20, 28)
    found = jpeg(image, torch.full((20,), quality))
    assert (found - found[..., :1, :1]).abs().max() == 0
    # Chroma is coded in steps of a table entry / 8: a level at high quality, more at low.
    allowed = 1 if quality >= 95 else quantization_tables(torch.tensor([quality])).max() / 8
    assert (found - image).abs().max() * 255 < allowed + 0.1


@pytest.mark.parametrize("quality", [1, 30, 50, 95, 100])
def test_a_grey_image_of_one_level_is_rounded_as_libjpeg_does(quality):
    """All of its coefficients are whole numbers, midway between two levels now and then."""
    grey = np.arange(256, dtype=np.uint8).repeat(3 * 256).reshape(256, 16, 16, 3)
    theirs = np.stack([np.asarray(saved(image, quality).convert("RGB")) for image in grey])
    ours = jpeg(torch.from_numpy(grey).permute(0, 3, 1, 2) / 255, torch.full((256,), quality))
    assert np.array_equal((ours * 255).round().byte().permute(0, 2, 3, 1).numpy(), theirs)


def test_it_is_the_same_in_inference_mode_and_after_it():
    image, quality = natural(56, 72)[None], torch.tensor([70])
    _constants.cache_clear()
    with torch.inference_mode():
        first = jpeg(image, quality)
    assert torch.equal(jpeg(image, quality), first)


def test_samples_of_one_canvas_do_not_see_each_other():
    sizes = torch.tensor([[20, 31], [48, 9], [33, 48], [48, 48]])
    quality = torch.tensor([30, 60, 80, 95])
    canvas = torch.stack([natural(48, 48, seed) for seed in range(4)])
    together = jpeg(canvas, quality, sizes)
    for k, (h, w) in enumerate(sizes.tolist()):
        alone = jpeg(canvas[k : k + 1, :, :h, :w], quality[k : k + 1])
        torch.testing.assert_close(together[k : k + 1, :, :h, :w], alone)
