"""20,000 draws against the table of the definition."""

from __future__ import annotations

from functools import cache
from math import pi

import pytest
import torch
from scipy import stats

from unclip.degradations.bsr_parameters import (
    COLOUR,
    CORRELATED,
    FULL,
    GREY,
    LIGHT,
    REDUCE,
    RESIZE,
    SLOTS,
    UNIFORMS,
    describe,
    draw_parameters,
)
from unclip.degradations.resize import AREA, BICUBIC, BILINEAR, GAUSSIAN

N = 20_000
IMPROBABLE = 1e-4  # p of a test that the definition fails; the draws are seeded
BOTH = pytest.mark.parametrize("variant", [FULL, LIGHT], ids=["full", "light"])


@cache
def drawn(variant, scale=4):
    uniforms = torch.rand(N, UNIFORMS, generator=torch.Generator().manual_seed(scale))
    return draw_parameters(uniforms, scale=scale, variant=variant)


def share(happens, expected):
    count = int(happens.sum())
    assert stats.binomtest(count, happens.numel(), expected).pvalue > IMPROBABLE


def uniform(values, low, high):
    assert stats.kstest(values.numpy(), "uniform", (low, high - low)).pvalue > IMPROBABLE


def even(values, expected):
    """Each of ``expected`` equally often, and nothing else."""
    found, counts = values.unique(return_counts=True)
    assert found.tolist() == list(expected)
    assert stats.chisquare(counts.numpy()).pvalue > IMPROBABLE


@BOTH
def test_chances(variant):
    p = drawn(variant)
    share(p.halved, 0.25)
    share(p.compressed, 0.9)
    share(p.reducing != GAUSSIAN, 0.75 if variant is FULL else 0.8)
    for kind, expected in ((GREY, 0.4), (CORRELATED, 0.2), (COLOUR, 0.4)):
        share(p.noise_kind == kind, expected)
    share(p.blur_variance[..., 0] == p.blur_variance[..., 1], 0.5)  # isotropic
    interpolations = (BILINEAR, BICUBIC, AREA)
    for values in (p.halving, p.resizing, p.reducing[p.reducing != GAUSSIAN]):
        even(values, interpolations)


@BOTH
def test_blurs(variant):
    p, spread = drawn(variant), 1 if variant is FULL else 0.25
    assert p.blurred_twice.all() == (variant is FULL)
    isotropic = p.blur_variance[..., 0] == p.blur_variance[..., 1]
    rest = torch.where(p.halved, 2, 4)[:, None].expand(-1, 2)
    for sf in (2, 4):
        chosen = ~isotropic & (rest == sf)
        for axis in (0, 1):
            uniform(p.blur_variance[chosen][:, axis], 0, spread * (4 + sf))
        sigma = p.blur_variance[isotropic & (rest == sf)][:, 0].sqrt()
        uniform(sigma, 0, spread * (2 + 0.2 * sf))
    uniform(p.blur_angle[~isotropic], 0, pi)
    even(p.blur_size[~isotropic], range(7, 26, 2) if variant is FULL else range(5, 15))
    even(p.blur_size[isotropic], range(7, 26, 2) if variant is FULL else range(5, 8))


@BOTH
def test_the_reduction_before_the_last(variant):
    p = drawn(variant)
    for sf, here in ((2, p.halved), (4, ~p.halved)):
        by_gaussian = here & (p.reducing == GAUSSIAN)
        uniform(p.reduction[here & (p.reducing != GAUSSIAN)], 1, 2 * sf)
        assert (p.reduction[by_gaussian] == sf).all()
        uniform(p.reduction_sigma[by_gaussian], 0.1, 0.6 * sf)


@BOTH
def test_noise_and_compression(variant):
    p = drawn(variant)
    even(p.noise_level, range(2, 26) if variant is FULL else range(1, 3))
    for values in (p.quality, p.final_quality):
        even(values, range(30, 96) if variant is FULL else range(80, 96))


@BOTH
def test_orders_are_uniform_among_those_with_op_2_before_op_3(variant):
    p = drawn(variant)
    assert (p.order.sort(dim=1).values == torch.arange(SLOTS)).all()
    place = p.order.argsort(dim=1)
    assert (place[:, REDUCE] < place[:, RESIZE]).all()
    codes = (p.order * SLOTS ** torch.arange(SLOTS)).sum(1)
    counts = codes.unique(return_counts=True)[1].tolist()
    counts += [0] * (2520 - len(counts))  # 7! / 2 orders
    assert len(counts) == 2520
    assert stats.chisquare(counts).pvalue > IMPROBABLE


def test_noise_of_each_kind_has_the_covariance_of_its_kind():
    p = drawn(FULL)
    covariance = p.noise_mix @ p.noise_mix.mT
    assert torch.equal(covariance[p.noise_kind == GREY][0], torch.ones(3, 3).double())
    assert torch.equal(covariance[p.noise_kind == COLOUR][0], torch.eye(3).double())
    correlated = covariance[p.noise_kind == CORRELATED]
    assert (correlated > -1e-9).all()
    trace = correlated.diagonal(dim1=1, dim2=2).sum(1)  # of D: three uniform numbers
    assert trace.mean().item() == pytest.approx(1.5, abs=4 * 0.5 / len(trace) ** 0.5)
    assert (correlated[:, 0, 1] > 0.05).float().mean() > 0.3  # not of independent channels


def test_draws_do_not_hang_together():
    p = drawn(FULL)
    numbers = [p.halved, p.order[:, 0], p.blur_size[:, 0], p.blur_size[:, 1], p.blur_angle[:, 0]]
    numbers += [p.reducing, p.resizing, p.noise_level, p.compressed, p.quality, p.final_quality]
    correlation = torch.corrcoef(torch.stack([x.double() for x in numbers]))
    assert (correlation - torch.eye(len(numbers))).abs().max() < 4.5 / N**0.5


@pytest.mark.parametrize(("scale", "chance"), [(2, 0), (3, 0), (4, 0.25), (8, 0.25)])
def test_only_even_scales_above_two_are_halved_first(scale, chance):
    p = drawn(FULL, scale)
    share(p.halved, chance)
    rest = torch.where(p.halved, scale / 2, scale)
    assert (p.reduction <= 2 * rest).all()
    assert p.reduction.max() > 1.9 * scale


def test_a_sample_is_its_own_row():
    uniforms = torch.rand(6, UNIFORMS)
    whole = draw_parameters(uniforms, scale=4, variant=LIGHT)
    part = draw_parameters(uniforms[2:5], scale=4, variant=LIGHT)
    assert all(torch.equal(a[2:5], b) for a, b in zip(whole, part))


def test_extreme_numbers_stay_in_range():
    last = torch.tensor(1.0).nextafter(torch.tensor(0.0))
    for number in (torch.tensor(0.0), last):
        p = draw_parameters(number.expand(1, UNIFORMS), scale=4, variant=FULL)
        assert 30 <= p.quality <= 95
        assert 7 <= p.blur_size.min() <= p.blur_size.max() <= 25
        assert p.noise_mix.isfinite().all()


def test_numbers_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="40"):
        draw_parameters(torch.rand(3, UNIFORMS - 1), scale=4, variant=FULL)


def test_the_description_says_what_happens():
    p = drawn(LIGHT)
    for sample in range(20):
        said = describe(p, sample)
        assert said.startswith("half") == bool(p.halved[sample])
        assert said.count("blur") == 1
        assert f"noise {p.noise_level[sample]}" in said
        assert said.endswith(f"JPEG {p.final_quality[sample]}")
