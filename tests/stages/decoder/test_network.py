"""The decoder: its published sizes, what each condition does, and what dropping it does."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from unclip.nn.config import TextEncoderConfig, UNetConfig
from unclip.stages.decoder.config import DecoderConfig
from unclip.stages.decoder.network import Decoder

D, L = 16, 6
ON, OFF = torch.tensor([True, True]), torch.tensor([False, False])


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def small(**changes) -> Decoder:
    """A tiny decoder whose zero-initialised layers have been given weights."""
    torch.manual_seed(0)
    unet = UNetConfig(
        channels=32, blocks=1, multiples=[1, 2], attention=[8], head_channels=16, dropout=0.0
    )
    text = TextEncoderConfig(context=L, vocabulary=50, width=24, layers=1, heads=2)
    config = DecoderConfig(image_size=16, unet=unet, text=text, **changes)
    config.validate()
    net = Decoder(config, D)
    for name, parameter in net.named_parameters():
        if not parameter.any() and name != "null_z_i":
            nn.init.normal_(parameter, std=0.05)
    return net.eval()


def batch(seed: int = 1) -> dict:
    generator = torch.Generator().manual_seed(seed)
    z_i = torch.randn(2, D, generator=generator)
    return dict(
        x_t=torch.randn(2, 3, 16, 16, generator=generator),
        t=torch.tensor([10, 900]),
        z_i=z_i / z_i.norm(dim=1, keepdim=True),
        tokens=torch.randint(1, 50, (2, L), generator=generator),
        mask=torch.tensor([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0]], dtype=torch.bool),
    )


def differ(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool(((a - b).abs().amax(dim=(1, 2, 3)) > 1e-5).all())


def test_parameter_counts_are_those_of_glide_and_of_the_paper():
    with torch.device("meta"):
        glide = Decoder(
            DecoderConfig(use_z_i=False, text=TextEncoderConfig(vocabulary=50257)), 1024
        )
        with_z_i = Decoder(DecoderConfig(text=TextEncoderConfig(vocabulary=50257)), 1024)
        paper = Decoder(DecoderConfig(), 1024)
        learned = Decoder(DecoderConfig(null_z_i="learned"), 1024)
    assert parameters(glide.unet) == 2_238_164_486
    assert parameters(glide.text) + parameters(glide.text_to_time) == 1_316_773_888
    assert parameters(glide) == 3_554_938_374
    assert parameters(with_z_i) == 3_565_434_374
    assert parameters(paper) == 3_563_695_622
    assert parameters(learned) == 3_563_695_622 + 1024


@torch.no_grad()
def test_a_fresh_decoder_outputs_exactly_zero():
    made = small()
    fresh = Decoder(made.config, D)
    out = fresh(**batch())
    assert out.shape == (2, 6, 16, 16)
    assert (out == 0).all()


@torch.no_grad()
def test_each_condition_changes_the_output():
    net, one, other = small(), batch(), batch(seed=2)
    out = net(**one)
    for key in ("z_i", "tokens"):
        assert differ(net(**{**one, key: other[key]}), out), key
    assert differ(net(**{**one, "t": one["t"] + 50}), out)


@torch.no_grad()
def test_token_ids_at_padding_positions_change_nothing():
    net, one = small(), batch()
    changed = {**one, "tokens": torch.where(one["mask"], one["tokens"], 7)}
    assert not torch.equal(changed["tokens"], one["tokens"])
    assert torch.equal(net(**changed), net(**one))


@torch.no_grad()
def test_a_dropped_caption_is_all_padding_and_a_dropped_z_i_is_zero():
    net, one = small(), batch()
    empty = {**one, "mask": torch.zeros_like(one["mask"])}
    assert torch.equal(net(**one, keep_text=OFF), net(**empty))
    zero = {**one, "z_i": torch.zeros_like(one["z_i"])}
    assert torch.equal(net(**one, keep_z_i=OFF), net(**zero))


@torch.no_grad()
def test_dropping_removes_one_condition_and_nothing_else():
    net, one, other = small(), batch(), batch(seed=2)
    for keep, key in (("keep_z_i", "z_i"), ("keep_text", "tokens")):
        out = net(**one, **{keep: OFF})
        assert differ(out, net(**one))
        assert torch.equal(net(**{**one, key: other[key]}, **{keep: OFF}), out)
        for kept in {"z_i", "tokens", "x_t"} - {key}:
            assert differ(net(**{**one, kept: other[kept]}, **{keep: OFF}), out), (keep, kept)


@torch.no_grad()
def test_dropping_is_per_sample():
    net, one = small(), batch()
    mixed = net(**one, keep_z_i=torch.tensor([True, False]), keep_text=torch.tensor([False, True]))
    no_text, no_z_i = net(**one, keep_text=OFF), net(**one, keep_z_i=OFF)
    torch.testing.assert_close(mixed[0], no_text[0])
    torch.testing.assert_close(mixed[1], no_z_i[1])
    assert torch.equal(net(**one, keep_z_i=ON, keep_text=ON), net(**one))


@torch.no_grad()
def test_a_learned_null_stands_in_the_scaled_space_and_starts_as_zeros():
    net, one = small(null_z_i="learned"), batch()
    zero = {**one, "z_i": torch.zeros_like(one["z_i"])}
    torch.testing.assert_close(net(**one, keep_z_i=OFF), net(**zero))
    net.null_z_i.fill_(0.5)
    same = {**one, "z_i": torch.full_like(one["z_i"], 0.5 / math.sqrt(D))}
    torch.testing.assert_close(net(**one, keep_z_i=OFF), net(**same))


@torch.no_grad()
def test_conditioning_once_and_denoising_equals_the_whole_forward():
    net, one = small(), batch()
    x_t, t = one.pop("x_t"), one.pop("t")
    conditioning = net.condition(**one)
    assert conditioning.time_offset.shape == (2, 4 * 32)
    assert conditioning.tokens.shape == (2, L + 4, 24)
    assert torch.equal(net.denoise(x_t, t, conditioning), net(x_t, t, **one))


@torch.no_grad()
def test_a_decoder_of_one_condition_needs_only_that_one():
    one = batch()
    x_t, t = one["x_t"], one["t"]
    caption = {key: one[key] for key in ("tokens", "mask")}
    without_z_i, without_caption = small(use_z_i=False), small(use_caption=False)
    assert without_z_i.condition(**caption).tokens.shape == (2, L, 24)
    assert without_caption.condition(z_i=one["z_i"]).tokens.shape == (2, 4, 24)
    assert torch.equal(without_z_i(x_t, t, **caption), without_z_i(**one))
    assert torch.equal(without_caption(x_t, t, z_i=one["z_i"]), without_caption(**one))
    with pytest.raises(ValueError, match="needs z_i"):
        small()(x_t, t, **caption)
    with pytest.raises(ValueError, match="needs caption tokens"):
        small()(x_t, t, z_i=one["z_i"])


def test_captions_of_another_length_are_refused():
    one = batch()
    one["tokens"], one["mask"] = one["tokens"][:, :4], one["mask"][:, :4]
    with pytest.raises(ValueError, match=f"captions of 4 tokens: this network takes {L}"):
        small()(**one)


@pytest.mark.parametrize("null_z_i", ["zeros", "learned"])
def test_gradients_reach_every_parameter(null_z_i):
    net = small(null_z_i=null_z_i).train()
    net(**batch(), keep_z_i=torch.tensor([True, False])).square().mean().backward()
    silent = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


@torch.no_grad()
def test_autocast_to_bfloat16_stays_close():
    net, one = small(), batch()
    want = net(**one, keep_z_i=torch.tensor([True, False]))
    with torch.autocast("cpu", torch.bfloat16):
        got = net(**one, keep_z_i=torch.tensor([True, False]))
    assert got.dtype == torch.float32
    assert (got - want).norm() < 0.05 * want.norm()
