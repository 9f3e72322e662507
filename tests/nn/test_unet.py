"""The U-Net: its start, sizes and precision, and the same weights in another implementation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from unclip.nn.resblock import AttentionBlock, GroupNorm32, ResBlock
from unclip.nn.unet import UNet


def small(**changes) -> UNet:
    torch.manual_seed(0)
    options = dict(
        in_channels=3,
        out_channels=6,
        channels=32,
        blocks=1,
        multiples=[1, 2, 2],
        attention_levels=[1, 2],
        head_channels=16,
        context_width=24,
    )
    return UNet(**{**options, **changes}).eval()


def wake(net: nn.Module) -> nn.Module:
    """Give the layers that start at zero some weights, so that their branches speak."""
    for parameter in net.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    return net


def inputs(side: int = 16):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, side, side, generator=generator)
    context = torch.randn(2, 5, 24, generator=generator)
    return x, torch.tensor([3, 700]), context


def test_a_fresh_network_outputs_exactly_zero():
    x, t, context = inputs()
    out = small()(x, t, context=context)
    assert out.shape == (2, 6, 16, 16)
    assert (out == 0).all()


@pytest.mark.parametrize("resample", [None, "down", "up"])
def test_a_fresh_residual_block_only_resamples(resample):
    block = ResBlock(32, 32, time_width=8, dropout=0.0, resample=resample)
    x = torch.arange(32 * 16.0).view(1, 32, 4, 4)
    want = {
        None: x,
        "down": x.view(1, 32, 2, 2, 2, 2).mean(dim=(3, 5)),
        "up": x.repeat_interleave(2, 2).repeat_interleave(2, 3),
    }[resample]
    assert torch.equal(block(x, torch.randn(1, 8)), want)


def test_a_fresh_attention_block_is_the_identity():
    block = AttentionBlock(32, head_channels=16, context_width=None)
    x = torch.randn(2, 32, 4, 4)
    assert torch.equal(block(x), x)


def test_the_context_and_the_time_reach_the_output_once_the_zeros_are_gone():
    net = wake(small())
    x, t, context = inputs()
    out = net(x, t, context=context)
    assert not torch.allclose(out, net(x, t, context=context + 1), atol=1e-4)
    assert not torch.allclose(out, net(x, t + 100, context=context), atol=1e-4)
    offset = torch.ones(2, 128)
    assert not torch.allclose(out, net(x, t, context=context, time_offset=offset), atol=1e-4)


def test_the_order_of_context_tokens_does_not_matter():
    net = wake(small())
    x, t, context = inputs()
    torch.testing.assert_close(net(x, t, context=context), net(x, t, context=context.flip(1)))


def test_samples_of_a_batch_do_not_touch():
    net = wake(small())
    x, t, context = inputs()
    alone = net(x[1:], t[1:], context=context[1:])
    torch.testing.assert_close(net(x, t, context=context)[1:], alone, rtol=1e-4, atol=1e-5)


def test_any_size_that_the_levels_divide_is_taken_and_others_are_refused():
    net = wake(small())
    _, t, context = inputs()
    assert net(torch.randn(2, 3, 20, 36), t, context=context).shape == (2, 6, 20, 36)
    with pytest.raises(ValueError, match="18 × 16 pixels: both sides must be multiples of 4"):
        net(torch.randn(2, 3, 18, 16), t, context=context)


def test_attention_stands_where_it_is_asked_for_and_in_the_middle_if_anywhere():
    def count(net):
        return sum(isinstance(m, AttentionBlock) for m in net.modules())

    # Per attended level one block going down and two going up, and one in the middle.
    assert count(small(attention_levels=[1, 2])) == 2 * (1 + 2) + 1
    assert count(small(attention_levels=[2])) == (1 + 2) + 1
    assert count(small(attention_levels=[], context_width=None)) == 0


def test_channels_last_gives_the_same_numbers():
    net = wake(small())
    x, t, context = inputs()
    want = net(x, t, context=context)
    net = net.to(memory_format=torch.channels_last)
    got = net(x.to(memory_format=torch.channels_last), t, context=context)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_the_norm_is_taken_in_float32_whatever_comes_in():
    norm = GroupNorm32(32, 32).to(torch.bfloat16)
    # Values 1000 ± 4 with one group per channel: bfloat16 sums would lose the ± 4.
    x = (1000 + 4 * torch.tensor([-1.0, 1.0]).repeat(1, 32, 8)).to(torch.bfloat16)
    out = norm(x)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out.float().abs(), torch.ones(1, 32, 16))


def test_autocast_to_bfloat16_stays_close_and_keeps_the_type_of_the_input():
    net = wake(small())
    x, t, context = inputs()
    want = net(x, t, context=context)
    with torch.autocast("cpu", torch.bfloat16):
        got = net(x, t, context=context)
    assert got.dtype == torch.float32
    assert (got - want).norm() < 0.05 * want.norm()


def test_a_network_of_bfloat16_weights_runs_on_float32_images():
    net = wake(small())
    x, t, context = inputs()
    want = net(x, t, context=context)
    got = net.to(torch.bfloat16)(x, t, context=context.to(torch.bfloat16))
    assert got.dtype == torch.float32
    assert (got - want).norm() < 0.1 * want.norm()


def copy_weights(pairs) -> None:
    for ours, theirs in pairs:
        theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values())))


def block_pairs(net: UNet, oracle):
    """Our residual and attention blocks beside those of diffusers, in the order of execution."""
    theirs_blocks, theirs_attention = [], []
    for part in [*oracle.down_blocks, oracle.mid_block, *oracle.up_blocks]:
        theirs_blocks += [*part.resnets, *(getattr(part, "downsamplers", None) or [])]
        theirs_blocks += getattr(part, "upsamplers", None) or []
        theirs_attention += [a for a in getattr(part, "attentions", []) if a is not None]
    ours_blocks = [m for m in net.modules() if isinstance(m, ResBlock)]
    ours_attention = [m for m in net.modules() if isinstance(m, AttentionBlock)]
    return (
        zip(ours_blocks, theirs_blocks, strict=True),
        zip(ours_attention, theirs_attention, strict=True),
    )


def copy_body(net: UNet, oracle) -> None:
    copy_weights(
        [
            (net.input, oracle.conv_in),
            (net.time.hidden, oracle.time_embedding.linear_1),
            (net.time.out, oracle.time_embedding.linear_2),
            (net.out_norm, oracle.conv_norm_out),
            (net.out, oracle.conv_out),
        ]
    )
    blocks, attention = block_pairs(net, oracle)
    for ours, theirs in blocks:
        pairs = [
            (ours.in_norm, theirs.norm1),
            (ours.in_conv, theirs.conv1),
            (ours.time, theirs.time_emb_proj),
            (ours.out_norm, theirs.norm2),
            (ours.out_conv, theirs.conv2),
        ]
        if theirs.conv_shortcut is not None:
            pairs.append((ours.skip, theirs.conv_shortcut))
        copy_weights(pairs)
    for ours, theirs in attention:
        copy_weights([(ours.norm, theirs.group_norm), (ours.out, theirs.to_out[0])])
        fused = [
            (ours.qkv, [theirs.to_q, theirs.to_k, theirs.to_v]),
            (ours.context_kv, [theirs.add_k_proj, theirs.add_v_proj]),
        ]
        for linear, parts in fused:
            weights, biases = (p.chunk(len(parts)) for p in (linear.weight, linear.bias))
            for part, weight, bias in zip(parts, weights, biases):
                part.load_state_dict({"weight": weight, "bias": bias})


OPTIONS = dict(
    in_channels=3,
    out_channels=6,
    block_out_channels=(32, 64, 64),
    layers_per_block=1,
    resnet_time_scale_shift="scale_shift",
)


@torch.no_grad()
def test_without_attention_it_equals_the_unet_of_diffusers_with_the_same_weights():
    diffusers = pytest.importorskip("diffusers")
    net = wake(small(attention_levels=[], context_width=None))
    oracle = diffusers.UNet2DModel(
        **OPTIONS,
        down_block_types=("ResnetDownsampleBlock2D",) * 3,
        up_block_types=("ResnetUpsampleBlock2D",) * 3,
        add_attention=False,
    ).eval()
    copy_body(net, oracle)
    x, t, _ = inputs()
    torch.testing.assert_close(net(x, t), oracle(x, t).sample, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_with_context_it_equals_the_conditional_unet_of_diffusers_with_the_same_weights():
    diffusers = pytest.importorskip("diffusers")
    net = wake(small())
    oracle = diffusers.UNet2DConditionModel(
        **OPTIONS,
        down_block_types=("ResnetDownsampleBlock2D",) + ("SimpleCrossAttnDownBlock2D",) * 2,
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D",) * 2 + ("ResnetUpsampleBlock2D",),
        cross_attention_dim=24,
        attention_head_dim=16,
        class_embed_type="identity",
    ).eval()
    copy_body(net, oracle)
    x, t, context = inputs()
    offset = torch.randn(2, 128)
    want = oracle(x, t, encoder_hidden_states=context, class_labels=offset).sample
    got = net(x, t, time_offset=offset, context=context)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_another_number_of_channels_is_refused():
    x, t, context = inputs()
    with pytest.raises(ValueError, match="1 channels, not 3"):
        small()(x[:, :1], t, context=context)
