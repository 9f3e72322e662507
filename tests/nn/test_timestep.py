"""The sinusoidal embedding, in numbers."""

from __future__ import annotations

import math

import pytest
import torch

from unclip.nn.timestep import TimestepMLP, timestep_embedding


def test_cosines_come_first_then_sines_with_periods_up_to_ten_thousand():
    got = timestep_embedding(torch.tensor([0, 1, 999]), 8)
    frequencies = [1.0, 0.1, 0.01, 0.001]
    for row, t in zip(got.tolist(), (0, 1, 999)):
        want = [math.cos(t * f) for f in frequencies] + [math.sin(t * f) for f in frequencies]
        assert row == pytest.approx(want, abs=1e-4)


@pytest.mark.parametrize("width", [12, 192, 320, 2048])
def test_frequencies_are_rounded_as_in_the_networks_whose_weights_are_imported(width):
    """The product first, then the quotient, in float32: guided diffusion's, GLIDE's and Karlo's."""
    half = width // 2
    product = -math.log(10000) * torch.arange(half, dtype=torch.float32)
    want = torch.cos(999.0 * torch.exp(product / half))
    assert torch.equal(timestep_embedding(torch.tensor([999]), width)[0, :half], want)


def test_the_embedding_is_float32_and_tells_neighbours_apart_in_a_bfloat16_network():
    t = torch.tensor([998, 999])
    net = TimestepMLP(32, 64).to(torch.bfloat16)
    assert timestep_embedding(t, 32).dtype == torch.float32
    out = net(t)
    assert out.dtype == torch.bfloat16
    assert not torch.equal(out[0], out[1])


def test_an_odd_width_is_refused():
    with pytest.raises(ValueError, match="even width"):
        timestep_embedding(torch.tensor([0]), 7)
