"""GLIDE's networks under our names."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from golden_files import state, tensors

from unclip.common.seeding import SampleNoise
from unclip.diffusion.config import ImageDiffusionConfig
from unclip.embeddings.tokens import Tokenizer
from unclip.nn.config import TextEncoderConfig, UNetConfig
from unclip.stages._diffusion.known import known_channels
from unclip.stages.decoder.config import DecoderConfig
from unclip.stages.decoder.network import Decoder
from unclip.stages.upsampler.config import UpsamplerConfig, UpsamplerSamplerConfig
from unclip.stages.upsampler.network import Upsampler, as_8_bit
from unclip.stages.upsampler.sampling import UpsamplerPart
from unclip.weights.maps.glide import glide
from unclip.weights.maps.rules import to_ours, to_theirs


def unet(*multiples: int, head_channels: int, attention: int = 8) -> UNetConfig:
    return UNetConfig(
        channels=16,
        blocks=1,
        multiples=list(multiples),
        attention=[attention],
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


def upsampler() -> Upsampler:
    config = UpsamplerConfig(
        image_size=32,
        low_size=8,
        enlarge="bilinear",
        low_8_bit=True,
        use_caption=True,
        text=caption(8, 1, 2),
        unet=unet(1, 1, head_channels=4, attention=16),
    )
    config.validate()
    return Upsampler(config).eval()


def base_inpaint() -> Decoder:
    config = DecoderConfig(
        image_size=16,
        use_z_i=False,
        inpaint=True,
        text=caption(8, 1, 2),
        unet=unet(1, 1, head_channels=4),
    )
    config.validate()
    return Decoder(config, 1).eval()


NETWORKS = {"base": base, "upsample": upsampler, "base_inpaint": base_inpaint}


def loaded(name: str) -> Any:
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


@torch.no_grad()
def test_a_forward_pass_of_the_upsampler_is_glides():
    golden, net = tensors("glide/upsample_io"), loaded("upsample")
    words = net.read(golden["tokens"], golden["mask"].bool())
    got = net(golden["x"], golden["timesteps"], golden["low_res"], words=words)
    torch.testing.assert_close(got, golden["output_float64"], rtol=0, atol=1e-10)


def test_eight_bits_hold_what_they_hold():
    levels = torch.arange(256) / 127.5 - 1
    torch.testing.assert_close(as_8_bit(levels), levels, rtol=0, atol=1e-6)
    torch.testing.assert_close(as_8_bit(levels + 0.4 / 127.5), levels, rtol=0, atol=1e-6)
    torch.testing.assert_close(as_8_bit(levels - 0.4 / 127.5), levels, rtol=0, atol=1e-6)


def test_the_upsampler_samples_as_glide_does():
    """fast27 from 0.997 times the noise, told of the small image in 8 bits and of the caption."""
    seen: list[tuple] = []

    class Net:
        config = upsampler().config

        def parameters(self):
            return iter([torch.zeros(1)])

        def read(self, tokens, mask, keep):
            return tokens, mask, keep

        def enlarged(self, low, size):
            return low

        def __call__(self, x_t, t, low, level, words, known):
            seen.append((x_t, t, low, words))
            return torch.zeros(len(x_t), 6, 32, 32)

    sampler = UpsamplerSamplerConfig(
        sampler="ddim", steps="fast27", clip="static", start_scale=0.997
    )
    diffusion = ImageDiffusionConfig(schedule="linear")
    part = UpsamplerPart(Net(), sampler, diffusion, Tokenizer(6))  # type: ignore[arg-type]
    low = torch.full((2, 3, 8, 8), 0.123)
    part.draw(low, SampleNoise([3, 4]), captions=["a", "b"])
    assert len(seen) == 27
    assert torch.equal(seen[0][0], 0.997 * SampleNoise([3, 4])((2, 3, 32, 32)))
    assert seen[0][1].tolist() == [997, 997]
    assert torch.equal(seen[0][2], as_8_bit(low))
    tokens, mask, keep = seen[0][3]
    assert torch.equal(tokens, Tokenizer(6)(["a", "b"]))
    assert mask.sum(dim=1).tolist() == [3, 3]
    assert keep.all()
    seen.clear()
    part.draw(low, SampleNoise([3, 4]))
    assert not seen[0][3][2].any()


@torch.no_grad()
def test_a_forward_pass_of_the_inpainting_base_is_glides():
    golden, net = tensors("glide/base_inpaint_io"), loaded("base_inpaint")
    known = known_channels(golden["inpaint_image"], golden["inpaint_mask"] > 0)
    got = net(
        golden["x"],
        golden["timesteps"],
        tokens=golden["tokens"],
        mask=golden["mask"].bool(),
        known=known,
    )
    torch.testing.assert_close(got, golden["output_float64"], rtol=0, atol=1e-10)


@torch.no_grad()
def test_the_inpainting_upsampler_takes_ten_channels_in_glides_order():
    """x, the known image, the mask, the small image: SuperResInpaintText2ImUnet's order."""
    config = UpsamplerConfig(
        image_size=32,
        low_size=8,
        enlarge="bilinear",
        inpaint=True,
        use_caption=True,
        text=caption(8, 1, 2),
        unet=unet(1, 1, head_channels=4, attention=16),
    )
    net = Upsampler(config).eval()
    seen = []
    net.unet.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    x_t, image = torch.randn(2, 3, 32, 32), torch.randn(2, 3, 32, 32)
    keep = torch.rand(2, 1, 32, 32) < 0.5
    words = net.read(torch.zeros(2, 6, dtype=torch.int64), torch.ones(2, 6, dtype=torch.bool))
    low = torch.randn(2, 3, 32, 32)
    t = torch.tensor([3, 5])
    net(x_t, t, low, words=words, known=known_channels(image, keep))
    assert torch.equal(seen[0], torch.cat([x_t, image * keep, keep.float(), low], dim=1))
    net(x_t, t, low, words=words)
    assert torch.equal(seen[1], torch.cat([x_t, torch.zeros(2, 4, 32, 32), low], dim=1))
