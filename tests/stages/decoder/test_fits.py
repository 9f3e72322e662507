"""Whitening of the embeddings that a decoder takes: its closed form, and what it is fitted to."""

from __future__ import annotations

import pytest
import torch

from unclip.common.errors import UserError
from unclip.nn.config import TextEncoderConfig, UNetConfig
from unclip.stages.decoder.config import DecoderConfig
from unclip.stages.decoder.fits import whitening
from unclip.stages.decoder.network import Decoder

D = 6
SPREADS = torch.tensor([9.0, 4.0, 1.0, 0.25, 1e-2, 1e-4], dtype=torch.float64)  # variances


def covariance() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(D, D, generator=generator, dtype=torch.float64)).Q
    return axes @ torch.diag(SPREADS) @ axes.T


def test_whole_it_makes_the_covariance_the_identity():
    found = whitening(covariance(), 1.0)
    spread = found @ covariance() @ found.T
    torch.testing.assert_close(spread, torch.eye(D, dtype=torch.float64), atol=1e-9, rtol=0)


@pytest.mark.parametrize("power", [0.25, 0.5, 1.0])
def test_each_component_keeps_its_axis_and_the_mean_variance_is_1(power):
    found = whitening(covariance(), power)
    spread = torch.linalg.eigvalsh(found @ covariance() @ found.T).flip(0)
    expected = SPREADS ** (1 - power)
    torch.testing.assert_close(spread, expected / expected.mean(), atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(found, found.T)
    torch.testing.assert_close(found @ covariance(), covariance() @ found)


def test_what_hardly_varies_is_not_blown_up():
    flat = torch.diag(torch.tensor([1.0, 1e-16, 0.0], dtype=torch.float64))
    spread = whitening(flat, 1.0) @ flat @ whitening(flat, 1.0).T
    assert spread.diagonal()[0] == pytest.approx(3.0)
    assert spread.diagonal()[1:].max() < 1e-8


def small(**changes) -> Decoder:
    torch.manual_seed(0)
    unet = UNetConfig(channels=8, blocks=1, multiples=[1], attention=[], norm_groups=4)
    text = TextEncoderConfig(context=4, vocabulary=50, width=8, layers=1, heads=2)
    return Decoder(DecoderConfig(image_size=8, unet=unet, text=text, **changes), D)


@pytest.mark.parametrize("embeddings", ["unit", "raw"])
def test_the_network_takes_the_embedding_less_its_mean_times_the_matrix(embeddings):
    net = small(whitening=0.5, embeddings=embeddings, use_caption=False)
    plain = small(embeddings="raw", use_caption=False)
    plain.load_state_dict({n: t for n, t in net.state_dict().items() if n in plain.state_dict()})
    generator = torch.Generator().manual_seed(1)
    net.z_mean.copy_(torch.randn(D, generator=generator))
    net.z_whitening.copy_(torch.randn(D, D, generator=generator))
    z = torch.randn(3, D, generator=generator)
    found, expected = (
        net.condition(z_i=z),
        plain.condition(z_i=(z - net.z_mean) @ net.z_whitening),
    )
    torch.testing.assert_close(found.tokens, expected.tokens)
    torch.testing.assert_close(found.time_offset, expected.time_offset)
    with torch.autocast("cpu", torch.bfloat16):
        scaled = net._scaled(z, net.z_i_to_time, None, whiten=True)
    assert torch.equal(scaled, (z - net.z_mean) @ net.z_whitening)
    dropped = net.condition(z_i=z, keep_z_i=torch.zeros(3, dtype=torch.bool))
    nothing = plain.condition(z_i=torch.zeros(3, D))
    assert torch.equal(dropped.tokens, nothing.tokens)


def test_it_is_refused_where_no_embedding_is_taken_or_beyond_the_whole():
    for changes, line in (
        ({"whitening": 0.5, "use_z_i": False}, "model.whitening: has no effect"),
        ({"whitening": 1.5}, r"model.whitening: must be in \[0, 1\]"),
    ):
        with pytest.raises(UserError, match=line):
            DecoderConfig(**changes).validate()
