"""GLIDE's networks under our names."""

from __future__ import annotations

import pytest
import torch
from golden_files import state, tensors

from unclip.nn.config import TextEncoderConfig, UNetConfig
from unclip.stages.decoder.config import DecoderConfig
from unclip.stages.decoder.network import Decoder
from unclip.weights.maps.glide import glide
from unclip.weights.maps.rules import to_ours, to_theirs


def unet(*multiples: int, head_channels: int) -> UNetConfig:
    return UNetConfig(
        channels=16,
        blocks=1,
        multiples=list(multiples),
        attention=[8],
        head_channels=head_channels,
        dropout=0.0,
        norm_groups=4,
    )


def caption(width: int, layers: int, heads: int) -> TextEncoderConfig:
    return TextEncoderConfig(context=6, vocabulary=40, width=width, layers=layers, heads=heads)


def base() -> Decoder:
    config = DecoderConfig(
        image_size=16, use_z_i=False, text=caption(16, 2, 4), unet=unet(1, 2, head_channels=8)
    )
    config.validate()
    return Decoder(config, 1).eval()


NETWORKS = {"base": base}


def loaded(name: str) -> Decoder:
    net, theirs = NETWORKS[name](), state(f"glide/{name}.pt")
    net.load_state_dict(to_ours(theirs, glide(net), expected=net.state_dict(), source=name))
    return net.double()


@pytest.mark.parametrize("name", NETWORKS)
def test_there_and_back_is_bit_identical(name):
    net, before = NETWORKS[name](), state(f"glide/{name}.pt")
    ours = to_ours(before, glide(net), expected=net.state_dict(), source=name)
    back = to_theirs(ours, glide(net))
    assert back.keys() == before.keys()
    assert all(torch.equal(back[key], before[key]) for key in before)


@torch.no_grad()
def test_a_forward_pass_of_the_base_is_glides():
    golden = tensors("glide/base_io")
    net = loaded("base")
    got = net(golden["x"], golden["timesteps"], tokens=golden["tokens"], mask=golden["mask"].bool())
    torch.testing.assert_close(got, golden["output_float64"], rtol=0, atol=1e-10)
