"""Great circles: norms, ends, symmetry, and the vectors between which there is no one way."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from unclip.embeddings.geometry import slerp, text_direction

T = torch.linspace(0, 1, 11)


def units(count: int, dim: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, dim, generator=generator), dim=-1)


@pytest.mark.parametrize("dim", [2, 3, 128, 1024])
def test_unit_vectors_stay_unit_vectors_and_the_angle_grows_evenly(dim):
    a, b = units(20, dim), units(20, dim, seed=1)
    way = slerp(a[:, None], b[:, None], T)
    assert way.shape == (20, 11, dim)
    torch.testing.assert_close(way.norm(dim=-1), torch.ones(20, 11), rtol=0, atol=1e-6)
    angle = (way.double()[:, :-1] * way.double()[:, 1:]).sum(-1).clamp(max=1).acos()
    whole = (a.double() * b.double()).sum(-1).acos()
    torch.testing.assert_close(angle, (whole / 10)[:, None].expand(-1, 10), rtol=0, atol=1e-4)


def test_the_middle_is_the_normalised_mean_where_elementwise_angles_go_astray():
    a, b = units(1, 512)[0], units(1, 512, seed=1)[0]
    middle = slerp(a, b, 0.5)
    torch.testing.assert_close(middle, F.normalize(a + b, dim=0), rtol=0, atol=1e-6)
    # One public implementation takes an angle for each coordinate's product.
    angle = (a * b).acos()
    elementwise = ((angle / 2).sin() * (a + b)) / angle.sin()
    # Products of coordinates are about 0, so each angle is about π/2: 2 sin(π/4) / 1 = √2.
    expected = (a + b).norm() / math.sqrt(2)
    assert elementwise.norm().item() == pytest.approx(expected.item(), abs=1e-3)
    skewed = F.normalize(a + 0.9 * b, dim=0)  # at a small angle to a, as two images are
    angle = (a * skewed).acos()
    norm = (((angle / 2).sin() * (a + skewed)) / angle.sin()).norm()
    assert norm > 1.2
    assert slerp(a, skewed, 0.5).norm().item() == pytest.approx(1, abs=1e-6)


def test_the_ends_are_the_inputs_bit_for_bit_and_the_way_back_is_the_same_way():
    a, b = 3 * units(5, 64), 0.5 * units(5, 64, seed=1)
    assert torch.equal(slerp(a, b, 0), a)
    assert torch.equal(slerp(a, b, 1.0), b)
    back = slerp(b[:, None], a[:, None], 1 - T.double())
    torch.testing.assert_close(slerp(a[:, None], b[:, None], T.double()), back, rtol=0, atol=1e-6)


def test_equal_vectors_stay_where_they_are_and_nearly_equal_ones_keep_their_norm():
    a = units(5, 64)
    way = slerp(a[:, None], a[:, None], T)
    torch.testing.assert_close(way, a[:, None].expand_as(way), rtol=0, atol=1e-7)
    near = F.normalize(a.double() + 1e-9 * units(5, 64, seed=1).double(), dim=-1)
    way = slerp(a.double()[:, None], near[:, None], T)
    norms = a.double().norm(dim=-1, keepdim=True)
    torch.testing.assert_close(way.norm(dim=-1), norms.expand(-1, 11), rtol=0, atol=1e-6)


def test_opposite_vectors_are_joined_by_a_half_circle():
    a = units(5, 64)
    way = slerp(a[:, None], -a[:, None], T)
    torch.testing.assert_close(way.norm(dim=-1), torch.ones(5, 11), rtol=0, atol=1e-6)
    inclination = (way * a[:, None]).sum(dim=-1)
    expected = (math.pi * T).cos().expand(5, -1)
    torch.testing.assert_close(inclination, expected, rtol=0, atol=1e-6)
    assert torch.equal(way[:, -1], -a)
    nearly = F.normalize(-a + 1e-5 * units(5, 64, seed=1), dim=-1)
    norms = slerp(a[:, None], nearly[:, None], T).norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones(5, 11), rtol=0, atol=1e-6)


def test_half_precision_is_computed_in_float64():
    a, b = units(5, 1024).bfloat16(), units(5, 1024, seed=1).bfloat16()
    middle = slerp(a, b, 0.5)
    assert middle.dtype == torch.bfloat16
    torch.testing.assert_close(middle.double(), slerp(a.double(), b.double(), 0.5), **BFLOAT16)


BFLOAT16 = {"rtol": 2**-8, "atol": 0}


def test_a_text_direction_is_the_normalised_difference_or_the_caption_itself():
    z_t, z_t0 = units(3, 64), units(3, 64, seed=1)
    expected = F.normalize(z_t - z_t0, dim=-1)
    torch.testing.assert_close(text_direction(z_t, z_t0), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(text_direction(z_t), z_t, rtol=0, atol=1e-7)


@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf")])
def test_what_has_no_direction_is_refused(bad):
    a = units(1, 8)
    with pytest.raises(ValueError, match="no direction"):
        slerp(a, torch.full_like(a, bad), 0.5)
    with pytest.raises(ValueError, match="no direction"):
        text_direction(a, a)
