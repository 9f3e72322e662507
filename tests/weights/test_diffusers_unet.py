"""Decoder and upsampler against diffusers' networks of the same shape and the same weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from unclip.common.errors import UserError
from unclip.nn.config import ConvUNetConfig, TextEncoderConfig, UNetConfig
from unclip.nn.unet import UNet
from unclip.stages.decoder.config import DecoderConfig
from unclip.stages.decoder.network import Conditioning, Decoder
from unclip.stages.upsampler.config import UpsamplerConfig
from unclip.stages.upsampler.network import Upsampler
from unclip.weights.maps import unet as maps
from unclip.weights.maps.rules import to_ours, to_theirs

diffusers = pytest.importorskip("diffusers")

# The decoder of Karlo: scripts/convert_kakao_brain_unclip_to_diffusers.py of diffusers.
KARLO = dict(block_out_channels=(320, 640, 960, 1280), layers_per_block=3, attention_head_dim=64)
KARLO_CONTEXT = 1536
X = 24  # width of the context tokens of the small networks
GROUPS = 8  # of one channel each, biases before a normalisation would have no gradient


def oracle_decoder(context: int, **shape) -> nn.Module:
    levels = len(shape["block_out_channels"])
    return diffusers.UNet2DConditionModel(
        in_channels=3,
        out_channels=6,
        down_block_types=(
            "ResnetDownsampleBlock2D",
            *["SimpleCrossAttnDownBlock2D"] * (levels - 1),
        ),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=(*["SimpleCrossAttnUpBlock2D"] * (levels - 1), "ResnetUpsampleBlock2D"),
        cross_attention_dim=context,
        class_embed_type="identity",
        resnet_time_scale_shift="scale_shift",
        **shape,
    )


def oracle_upsampler(config: ConvUNetConfig, out_channels: int = 6) -> nn.Module:
    levels = len(config.multiples)
    return diffusers.UNet2DModel(
        in_channels=6,
        out_channels=out_channels,
        down_block_types=("ResnetDownsampleBlock2D",) * levels,
        up_block_types=("ResnetUpsampleBlock2D",) * levels,
        block_out_channels=[m * config.channels for m in config.multiples],
        layers_per_block=config.blocks,
        norm_num_groups=config.norm_groups,
        resnet_time_scale_shift="default" if config.time == "additive" else "scale_shift",
        add_attention=False,
    )


def decoder(context: int, image_size: int, **unet) -> Decoder:
    attention = [image_size >> level for level in range(1, len(unet["multiples"]))]
    text = TextEncoderConfig(context=4, vocabulary=8, width=context, layers=1, heads=1)
    shape = UNetConfig(attention=attention, dropout=0.0, **unet)
    config = DecoderConfig(image_size=image_size, use_caption=False, text=text, unet=shape)
    config.validate()
    return Decoder(config, embed_dim=8)


def renamed(state: dict[str, Tensor], unet: UNet) -> dict[str, Tensor]:
    """diffusers' tensors under our names; also what is linear in them, such as gradients."""
    return to_ours(state, maps.diffusers(unet), expected=unet.state_dict(), source="oracle")


def fits(oracle: nn.Module, unet: UNet) -> None:
    """Every parameter of the one is one of the other, of equal shape; equally many numbers."""
    renamed(oracle.state_dict(), unet)
    back = to_theirs(unet.state_dict(), maps.diffusers(unet))
    assert {k: v.shape for k, v in back.items()} == {
        k: v.shape for k, v in oracle.state_dict().items()
    }
    sizes = [sum(p.numel() for p in net.parameters()) for net in (oracle, unet)]
    assert sizes[0] == sizes[1]


def agree(ours: Tensor, theirs: Tensor, tolerance: float, name: str = "output") -> None:
    """Equal to ``tolerance`` of the largest entry."""
    bound = tolerance * theirs.abs().max().item()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=bound, msg=lambda m: f"{name}: {m}")


def compare(oracle: nn.Module, unet: UNet, call_oracle, call_ours, inputs: list[Tensor]):
    """The same output; in float64 the same gradients of all parameters and inputs as well."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in oracle.named_parameters():
            if "norm" in name:  # scales about one and shifts about zero, as after training
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
        oracle.conv_out.weight.mul_(3)
        unet.load_state_dict(renamed(oracle.state_dict(), unet))
        want = call_oracle(*inputs)
        assert 0.3 < want.std() < 3
        agree(call_ours(*inputs), want, 1e-5)

    oracle.double()
    unet.double()
    results = []
    for call in (call_oracle, call_ours):
        given = [x.double().requires_grad_() for x in inputs]
        out = call(*given)
        (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
        results.append((out, given))
    (want, oracle_inputs), (got, our_inputs) = results
    agree(got, want, 1e-12)
    for index, (ours, theirs) in enumerate(zip(our_inputs, oracle_inputs)):
        agree(ours.grad, theirs.grad, 1e-10, f"input {index}")
    gradients = renamed({n: p.grad for n, p in oracle.named_parameters()}, unet)
    for name, parameter in unet.named_parameters():
        agree(parameter.grad, gradients[name], 1e-10, name)


def test_the_decoder_computes_what_diffusers_unclip_decoder_computes():
    torch.manual_seed(0)
    oracle = oracle_decoder(
        X,
        block_out_channels=(32, 64, 96),
        layers_per_block=2,
        attention_head_dim=16,
        norm_num_groups=GROUPS,
    )
    unet = dict(channels=32, blocks=2, multiples=[1, 2, 3], head_channels=16, norm_groups=GROUPS)
    net = decoder(X, 16, **unet)
    t = torch.tensor([10, 900])
    x, offset, context = torch.randn(2, 3, 16, 16), torch.randn(2, 128), torch.randn(2, 5, X)

    def theirs(x: Tensor, offset: Tensor, context: Tensor) -> Tensor:
        return oracle(x, t, context, class_labels=offset).sample

    def ours(x: Tensor, offset: Tensor, context: Tensor) -> Tensor:
        return net.denoise(x, t, Conditioning(offset, context))

    compare(oracle, net.unet, theirs, ours, [x, offset, context])


@pytest.mark.parametrize("time", ["scale_shift", "additive"])
def test_the_upsampler_computes_what_diffusers_unet_without_attention_computes(time):
    torch.manual_seed(0)
    config = ConvUNetConfig(
        channels=32, blocks=2, multiples=[1, 1, 2], dropout=0.0, norm_groups=GROUPS, time=time
    )
    oracle = oracle_upsampler(config)
    net = Upsampler(UpsamplerConfig(image_size=32, low_size=8, unet=config))
    t = torch.tensor([10, 900])

    def theirs(x: Tensor, low: Tensor) -> Tensor:
        return oracle(torch.cat([x, low], dim=1), t).sample

    def ours(x: Tensor, low: Tensor) -> Tensor:
        return net(x, t, low)

    compare(oracle, net.unet, theirs, ours, [torch.randn(2, 3, 16, 16), torch.randn(2, 3, 16, 16)])


def test_karlos_decoder_has_a_place_for_every_parameter():
    with torch.device("meta"):
        oracle = oracle_decoder(KARLO_CONTEXT, **KARLO)
        net = decoder(KARLO_CONTEXT, 64, channels=320, blocks=3, multiples=[1, 2, 3, 4])
    fits(oracle, net.unet)


@pytest.mark.parametrize(
    ("channels", "blocks", "multiples", "count"),
    [(320, 3, [1, 2, 3, 4], 729_710_726), (192, 2, [1, 1, 2, 2, 4, 4], 282_064_326)],
)
def test_the_papers_upsamplers_have_a_place_for_every_parameter(channels, blocks, multiples, count):
    unet = ConvUNetConfig(channels=channels, blocks=blocks, multiples=multiples)
    with torch.device("meta"):
        oracle = oracle_upsampler(unet)
        net = Upsampler(UpsamplerConfig(unet=unet))
    fits(oracle, net.unet)
    assert sum(p.numel() for p in net.parameters()) == count


def test_karlos_upsamplers_have_a_place_for_every_parameter():
    unet = ConvUNetConfig(channels=320, blocks=3, multiples=[1, 2, 3, 4], time="additive")
    with torch.device("meta"):
        oracle = oracle_upsampler(unet, 3)
        net = Upsampler(UpsamplerConfig(unet=unet, last_step=True), learns_variance=False)
    fits(oracle, net.unet)
    fits(oracle, net.last)
    assert sum(p.numel() for p in net.parameters()) == 2 * 691_579_523


def test_a_parameter_of_another_network_is_refused():
    unet = ConvUNetConfig(channels=32, blocks=2, multiples=[1, 2])
    with torch.device("meta"):
        state = oracle_upsampler(unet).state_dict()
        net = Upsampler(UpsamplerConfig(unet=unet))
    for name in ("down_blocks.0.attentions.0.to_q.weight", "encoder_hid_proj.weight"):
        with pytest.raises(UserError, match=f"oracle: {name} has no place"):
            renamed({**state, name: torch.zeros(1)}, net.unet)
