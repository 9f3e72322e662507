"""The upsamplers: their published sizes, any image size, and the low-resolution condition."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from unclip.common.errors import UserError
from unclip.common.seeding import SampleNoise
from unclip.diffusion.config import ImageDiffusionConfig
from unclip.diffusion.schedules import full_schedule
from unclip.nn.config import UNetConfig
from unclip.nn.resblock import AttentionBlock
from unclip.stages.upsampler.config import UpsamplerConfig, UpsamplerSamplerConfig
from unclip.stages.upsampler.network import Upsampler
from unclip.stages.upsampler.sampling import UpsamplerPart


def small(awake: bool = True, **changes) -> Upsampler:
    torch.manual_seed(0)
    unet = UNetConfig(channels=32, blocks=1, multiples=[1, 2, 2], attention=[], dropout=0.0)
    net = Upsampler(UpsamplerConfig(image_size=32, low_size=8, unet=unet, **changes)).eval()
    for parameter in net.parameters():
        if awake and not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    return net


def batch(height: int = 16, width: int = 16, factor: int = 4):
    generator = torch.Generator().manual_seed(1)
    x_t = torch.randn(2, 3, height, width, generator=generator)
    low = torch.rand(2, 3, height // factor, width // factor, generator=generator) * 2 - 1
    return x_t, torch.tensor([10, 900]), low


def test_parameter_counts_are_those_of_the_paper():
    unet = UNetConfig(channels=192, blocks=2, multiples=[1, 1, 2, 2, 4, 4], attention=[])
    with torch.device("meta"):
        first = Upsampler(UpsamplerConfig())
        second = Upsampler(UpsamplerConfig(image_size=1024, low_size=256, unet=unet))
    assert sum(p.numel() for p in first.parameters()) == 729_710_726
    assert sum(p.numel() for p in second.parameters()) == 282_064_326
    for net in (first, second):
        assert not any(isinstance(m, AttentionBlock) for m in net.modules())


@torch.no_grad()
def test_a_fresh_upsampler_outputs_exactly_zero():
    assert (small(awake=False)(*batch()) == 0).all()


@torch.no_grad()
@pytest.mark.parametrize(("height", "width"), [(8, 8), (32, 32), (16, 40), (64, 12)])
def test_images_of_any_size_are_taken(height, width):
    out = small()(*batch(height, width))
    assert out.shape == (2, 6, height, width)
    assert out.isfinite().all()


@torch.no_grad()
def test_on_a_torus_shifting_the_images_shifts_the_output():
    """Nothing in the network knows a position; only the padding at the edges does."""
    net = small().double()
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.padding_mode = "circular"
    x_t, t, low = batch()
    x_t, low = x_t.double(), F.interpolate(low, 16).double()
    rolled = net(x_t.roll((4, 8), (2, 3)), t, low.roll((4, 8), (2, 3)))
    torch.testing.assert_close(rolled, net(x_t, t, low).roll((4, 8), (2, 3)))


@torch.no_grad()
def test_the_condition_is_enlarged_or_taken_as_it_is():
    net = small()
    x_t, t, low = batch()
    large = F.interpolate(low, size=(16, 16), mode="bicubic", antialias=True)
    assert torch.equal(net(x_t, t, low), net(x_t, t, large))
    assert not torch.allclose(net(x_t, t, low), net(x_t, t, -low), atol=1e-4)


@torch.no_grad()
def test_enlarging_keeps_a_constant_and_a_mean():
    seen = []
    net = small()
    net.unet.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    x_t, t, low = batch()
    net(x_t, t, torch.full_like(low, 0.3))
    torch.testing.assert_close(seen[0][:, 3:], torch.full_like(x_t, 0.3))
    assert torch.equal(seen[0][:, :3], x_t)


def test_gradients_reach_every_parameter():
    net = small().train()
    net(*batch()).square().mean().backward()
    silent = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


@torch.no_grad()
def test_autocast_to_bfloat16_stays_close():
    net, inputs = small(), batch()
    want = net(*inputs)
    with torch.autocast("cpu", torch.bfloat16):
        got = net(*inputs)
    assert got.dtype == torch.float32
    assert (got - want).norm() < 0.05 * want.norm()


@torch.no_grad()
def test_the_level_of_the_conditions_noise_is_told():
    told = small(noise_levels=250)
    x_t, t, low = batch()
    out = told(x_t, t, low, torch.tensor([0, 0]))
    other = told(x_t, t, low, torch.tensor([0, 200]))
    torch.testing.assert_close(other[0], out[0])
    assert (other[1] - out[1]).abs().max() > 1e-4
    for net, level in ((told, None), (small(), torch.tensor([0, 0]))):
        with pytest.raises(ValueError, match="level"):
            net(x_t, t, low, level)


def test_sampling_noises_the_condition_to_the_level_asked_for():
    """A network that copies its condition: what comes out is the condition as it was noised."""
    diffusion = ImageDiffusionConfig(prediction="x0", variance="learned_range")
    alpha_bar = full_schedule(diffusion).alpha_bar
    net = small(noise_levels=900)
    low = torch.full((1, 3, 64, 64), 0.25)
    seen = []

    def copy(x_t, t, low, level, words, known):
        seen.append((low, level))
        return torch.cat([low, low], dim=1)

    net.forward = copy
    for level in (0, 600):
        sampler = UpsamplerSamplerConfig(steps=2, noise_level=level)
        UpsamplerPart(net, sampler, diffusion).draw(low, SampleNoise([1]), size=64)
        given, told = seen[-1]
        assert told.tolist() == [level]
        assert given.mean().item() == pytest.approx(0.25 * alpha_bar[level].sqrt().item(), abs=0.03)
        assert given.var().item() == pytest.approx(1 - alpha_bar[level].item(), rel=0.05, abs=1e-6)
    sampler = UpsamplerSamplerConfig(steps=2, noise_level=900)
    with pytest.raises(UserError, match="noise_level: 900"):
        UpsamplerPart(net, sampler, diffusion).draw(low, SampleNoise([1]), size=64)


@torch.no_grad()
@pytest.mark.parametrize("t", [[0, 0], [10, 900], [0, 7]])
def test_the_network_of_the_last_step_denoises_at_t_0_alone(t):
    net = small(last_step=True)
    x_t, _, low = batch(factor=1)
    t = torch.tensor(t)
    both = torch.cat([x_t, low], dim=1)
    want = torch.where((t == 0)[:, None, None, None], net.last(both, t), net.unet(both, t))
    torch.testing.assert_close(net(x_t, t, low), want)


def test_each_network_learns_from_its_own_samples():
    net = small(last_step=True)
    x_t, _, low = batch()
    net(x_t, torch.tensor([5, 9]), low).square().sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in net.last.parameters())
    assert any(p.grad.any() for p in net.unet.parameters())
    net.zero_grad()
    net(x_t, torch.tensor([0, 0]), low).square().sum().backward()
    assert not any(p.grad.any() for p in net.unet.parameters())
    assert any(p.grad.any() for p in net.last.parameters())


@torch.no_grad()
def test_sampling_runs_one_network_a_step():
    net = small(last_step=True)
    calls = []
    for name in ("unet", "last"):
        net.get_submodule(name).register_forward_hook(
            lambda module, args, out, name=name: calls.append((name, args[1].tolist()))
        )
    sampler = UpsamplerSamplerConfig(sampler="ddim", steps=3, clip="static")
    part = UpsamplerPart(net, sampler, ImageDiffusionConfig())
    part.draw(torch.zeros(2, 3, 8, 8), SampleNoise([0, 1]))
    assert calls == [("unet", [999, 999]), ("unet", [500, 500]), ("last", [0, 0])]
