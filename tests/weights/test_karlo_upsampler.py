"""Karlo's super-resolution networks under our names, and its whole sampling."""

from __future__ import annotations

import pytest
import torch
from golden_files import Recorded, component, state, tensors
from torch import Tensor

from unclip.diffusion.config import ImageDiffusionConfig
from unclip.nn.config import ConvUNetConfig
from unclip.stages.upsampler.config import UpsamplerConfig, UpsamplerSamplerConfig
from unclip.stages.upsampler.network import Upsampler
from unclip.stages.upsampler.sampling import UpsamplerPart
from unclip.weights.maps import upsampler as maps
from unclip.weights.maps.rules import to_ours, to_theirs


def empty() -> Upsampler:
    unet = ConvUNetConfig(
        channels=8, blocks=1, multiples=[1, 2], dropout=0.0, norm_groups=4, time="additive"
    )
    config = UpsamplerConfig(image_size=32, low_size=16, last_step=True, unet=unet)
    config.validate()
    return Upsampler(config, learns_variance=False).eval()


def original() -> dict[str, Tensor]:
    return state("karlo/improved_sr.ckpt")


def component_folders() -> dict[str, Tensor]:
    return component("super_res_first") | component("super_res_last")


LAYOUTS = {"karlo": (original, maps.karlo), "diffusers": (component_folders, maps.diffusers)}


def loaded(layout: str) -> Upsampler:
    read, rules = LAYOUTS[layout]
    net = empty()
    net.load_state_dict(to_ours(read(), rules(net), expected=net.state_dict(), source=layout))
    return net.double()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_both_networks_compute_what_karlos_compute(layout):
    net, golden = loaded(layout), tensors("karlo/improved_sr_io")
    x, low, t = golden["x"], golden["low_res"], golden["timesteps"]
    with torch.no_grad():
        first, last = (unet(torch.cat([x, low], dim=1), t) for unet in (net.unet, net.last))
    torch.testing.assert_close(first, golden["first_float64"], rtol=0, atol=1e-10)
    torch.testing.assert_close(last, golden["last_float64"], rtol=0, atol=1e-10)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_there_and_back_is_bit_identical(layout):
    read, rules = LAYOUTS[layout]
    net = empty()
    before = read()
    ours = to_ours(before, rules(net), expected=net.state_dict(), source=layout)
    back = to_theirs(ours, rules(net))
    assert back.keys() == before.keys()
    assert all(torch.equal(back[name], before[name]) for name in before)


def test_the_whole_sampling_is_karlos():
    golden = tensors("karlo/improved_sr_sample")
    sampler = UpsamplerSamplerConfig(sampler="ddpm", steps=7, clip="static")
    part = UpsamplerPart(loaded("karlo"), sampler, ImageDiffusionConfig(variance="fixed_small"))
    small = golden["image_small"].float()  # which Karlo enlarges in float32
    got = part.draw(small, Recorded(golden["noise"]))
    torch.testing.assert_close(got, golden["image_float64"], rtol=0, atol=1e-8)
