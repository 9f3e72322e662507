"""Karlo's decoder under our names, its conditions and its whole guided sampling."""

from __future__ import annotations

import pytest
import torch
from golden_files import Recorded, component, state, tensors
from torch import Tensor

from unclip.common.types import TextFeatures
from unclip.diffusion.config import GuidedSamplerConfig, ImageDiffusionConfig
from unclip.diffusion.predictor import build_predictor
from unclip.diffusion.samplers import ddpm
from unclip.nn.config import TextEncoderConfig, UNetConfig
from unclip.stages.decoder.config import DecoderConfig
from unclip.stages.decoder.network import Decoder
from unclip.stages.decoder.sampling import decoder_denoiser
from unclip.stages.decoder.words import Words
from unclip.weights.maps import decoder as maps
from unclip.weights.maps.rules import to_ours, to_theirs

D, L, X = 12, 7, 24


def empty() -> Decoder:
    config = DecoderConfig(
        image_size=16,
        embeddings="raw",
        caption="clip",
        context_mask=True,
        null_text="caption",
        null_z_i="learned",
        unet=UNetConfig(
            channels=16,
            blocks=1,
            multiples=[1, 2],
            attention=[8],
            head_channels=8,
            dropout=0.0,
            norm_groups=4,
        ),
        text=TextEncoderConfig(width=X),
    )
    config.validate()
    return Decoder(config, D, D).eval()


def original() -> dict[str, Tensor]:
    return state("karlo/decoder.ckpt")


def component_folders() -> dict[str, Tensor]:
    return component("decoder") | component("text_proj")


LAYOUTS = {"karlo": (original, maps.karlo), "diffusers": (component_folders, maps.diffusers)}


def loaded(layout: str) -> Decoder:
    read, rules = LAYOUTS[layout]
    net = empty()
    net.load_state_dict(to_ours(read(), rules(net), expected=net.state_dict(), source=layout))
    return net.double()


def caption() -> TextFeatures:
    golden = tensors("karlo/decoder_io")
    return TextFeatures(golden["text_emb"], golden["text_enc"], golden["mask"])


@pytest.mark.parametrize("layout", LAYOUTS)
@torch.no_grad()
def test_a_forward_pass_is_karlos(layout):
    golden = tensors("karlo/decoder_io")
    got = loaded(layout)(golden["x"], golden["timesteps"], z_i=golden["z_i"], text=caption())
    torch.testing.assert_close(got, golden["output_float64"], rtol=0, atol=1e-10)


@torch.no_grad()
def test_hidden_words_and_the_order_of_words_do_not_matter():
    golden = tensors("karlo/decoder_io")
    net, text = loaded("karlo"), caption()
    assert not text.mask.all()
    noise = torch.randn(text.tokens.shape, dtype=torch.float64)
    other = text._replace(tokens=torch.where(text.mask[:, :, None], text.tokens, noise))
    back = text._replace(tokens=other.tokens.flip(1), mask=text.mask.flip(1))
    for changed in (other, back):
        got = net(golden["x"], golden["timesteps"], z_i=golden["z_i"], text=changed)
        torch.testing.assert_close(got, golden["output_float64"], rtol=0, atol=1e-10)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_there_and_back_is_bit_identical(layout):
    read, rules = LAYOUTS[layout]
    net = empty()
    before = read()
    ours = to_ours(before, rules(net), expected=net.state_dict(), source=layout)
    back = to_theirs(ours, rules(net))
    assert back.keys() == before.keys()
    assert all(torch.equal(back[name], before[name]) for name in before)


def empty_caption() -> TextFeatures:
    golden = tensors("karlo/prior_sample")
    return TextFeatures(golden["uncond_emb"], golden["uncond_enc"], golden["uncond_mask"])


def as_words(text: TextFeatures) -> Words:
    return Words(torch.zeros(text.mask.shape, dtype=torch.int64), text.mask, text)


@torch.no_grad()
def test_the_whole_guided_sampling_is_karlos():
    golden = tensors("karlo/decoder_sample")
    sampler = GuidedSamplerConfig(sampler="ddpm", steps=10, clip="static", guidance=8.0)
    denoise = decoder_denoiser(
        loaded("karlo"),
        sampler.guidance,
        z_i=golden["z_i"],
        words=as_words(caption()),
        null=as_words(empty_caption()),
    )
    predictor = build_predictor(
        denoise, diffusion=ImageDiffusionConfig(), sampler=sampler, device="cpu"
    )
    noise = Recorded(golden["noise"])
    x_T = noise((3, 3, 16, 16), torch.device("cpu"))
    got = ddpm(predictor, x_T, noise=noise)
    torch.testing.assert_close(got.clamp(-1, 1), golden["image_float64"], rtol=0, atol=1e-8)


@torch.no_grad()
def test_conditions_are_those_of_diffusers_projection():
    golden = tensors("karlo-diffusers/text_proj_guided_output")
    io, net = tensors("karlo/decoder_io"), loaded("diffusers").float()
    keep = torch.arange(6) >= 3  # the first half is unconditional: of z_i alone
    text = TextFeatures(*(torch.cat([x, x]) for x in caption()))
    got = net.condition(z_i=torch.cat([io["z_i"]] * 2), text=text, keep_z_i=keep)
    context = torch.cat([got.tokens[:, L:], got.tokens[:, :L]], dim=1)  # their extra tokens first
    torch.testing.assert_close(context, golden["context"].float(), rtol=0, atol=1e-5)
    torch.testing.assert_close(got.time_offset, golden["additive_time"].float(), rtol=0, atol=1e-5)
