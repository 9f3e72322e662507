"""The figures of upsamplers in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unclip.data.sample import Sample
from unclip.degradations.blur import gaussian_blur
from unclip.degradations.downsample import resize
from unclip.evaluation.metrics.upsamplers import Comparison as SheetRow
from unclip.evaluation.metrics.upsamplers import Tally, busiest, gradients, lanczos, sheet
from unclip.evaluation.protocols.upsamplers import HeldOutImages


def noise(count=3, side=32):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


def scored(found, original):
    tally = Tally()
    for k in range(len(found)):  # in batches of one
        tally.add(found[k : k + 1], original[k : k + 1])
    return tally.scores()


def test_an_original_scores_itself_perfectly():
    scores = scored(noise(), noise())
    assert scores.ssim == pytest.approx(1)
    assert scores.gradient == pytest.approx(1)
    assert scores.psnr == scores.psnr_mean == pytest.approx(10 * np.log10(4e12))


def test_known_errors_give_known_decibels():
    black = torch.full((2, 3, 16, 16), -1.0)
    off = black + torch.tensor([0.02, 0.2])[:, None, None, None]
    scores = scored(off, black)
    assert scores.psnr_mean == pytest.approx((40 + 20) / 2)  # 20 log10(2 / 0.02), (2 / 0.2)
    assert scores.psnr == pytest.approx(10 * np.log10(4 / ((0.0004 + 0.04) / 2)))


def test_blur_softens_and_does_not_pass_for_the_original():
    original = noise()
    once = scored(gaussian_blur(original), original)
    twice = scored(gaussian_blur(gaussian_blur(original)), original)
    assert 1 > once.gradient > twice.gradient > 0
    assert 1 > once.ssim > twice.ssim


def test_half_the_contrast_has_a_quarter_of_the_energy():
    assert scored(noise() / 2, noise()).gradient == pytest.approx(0.25)


def test_the_gradient_of_a_ramp_is_its_slope():
    ramp = torch.linspace(-1, 1, 21).expand(1, 3, 21, 21)
    down, right = gradients(ramp)[0]
    torch.testing.assert_close(right, torch.full((20, 20), 0.1**2))
    assert down.abs().max() < 1e-12


def test_lanczos_keeps_a_constant_and_is_sharper_than_bicubic_on_an_edge():
    flat = torch.full((2, 3, 8, 8), 0.3)
    torch.testing.assert_close(lanczos(flat, 32), torch.full((2, 3, 32, 32), 0.3))
    edge = torch.where(torch.arange(8) < 4, -0.5, 0.5).expand(1, 3, 8, 8).contiguous()
    sharp, soft = (gradients(f(edge, 32)).sum() for f in (lanczos, resize))
    assert sharp > soft


def test_the_detail_is_where_most_changes_and_the_same_in_all_versions():
    image = torch.zeros(3, 64, 64)
    image[:, 36:50, 4:18] = noise(1, 14)[0]
    top, left = busiest(image, low=16)
    assert (top % 4, left % 4) == (0, 0)
    assert 32 <= top <= 36
    assert 0 <= left <= 4
    large = np.zeros((64, 64, 3), np.uint8)
    large[top : top + 16, left : left + 16] = 200
    small = large[::4, ::4]
    page = np.asarray(sheet([SheetRow(small, large, large, large, (top, left))]))
    middles = [page[6 + 128, 6 + 128 + 262 * column, 0] for column in range(8)]
    assert middles[4:] == [200] * 4


class Sizes:
    """Grey images of given sizes, of which None cannot be read."""

    def __init__(self, *sizes):
        self.sizes = sizes

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        from unclip.data.decode import BadSample

        size = self.sizes[index]
        if size is None:
            raise BadSample("broken")
        return Sample(str(index), np.full((*size, 3), 10 * index, np.uint8), ["grey"])


def test_small_and_broken_images_are_skipped_and_counted():
    source = Sizes((16, 16), (15, 40), None, (20, 30), (100, 64), (16, 16))
    pictures = HeldOutImages(source, side=16, n=3, batch=2, device=torch.device("cpu"))
    batches = list(pictures)
    assert [tuple(batch.shape) for batch in batches] == [(2, 3, 16, 16), (1, 3, 16, 16)]
    values = [round(float(x.mean() + 1) * 127.5) for batch in batches for x in batch]
    assert values == [0, 30, 40]
    assert pictures.skipped == 2
