"""Networks from PyPI beside ours, called on the same inputs; for `throughput.py`.

Those of diffusers have our architecture and get our weights (or ours get theirs), so that both must
compute the same. dalle2-pytorch's prior has other blocks (one head of keys and values, gated MLPs):
it gets our width, depth and tokens, and MLPs that make it about as large.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import torch
from networks import TOKENS, Calls, Network
from torch import Tensor, nn

from unclip.weights.maps import unet as maps
from unclip.weights.maps.rules import to_ours


class Peer(NamedTuple):
    """A network of another package."""

    name: str
    calls: Calls
    blocks: tuple[type[nn.Module], ...]  # what is compiled one by one
    equal: bool  # whether it computes the same as ours


class Missing(Exception):
    """The peer's package is not installed."""


def prior_transformer(ours: Network) -> Peer:
    """The prior of diffusers."""
    from diffusers import PriorTransformer
    from diffusers.models.attention import BasicTransformerBlock

    model = ours.model
    net = PriorTransformer(
        num_attention_heads=model.heads,
        attention_head_dim=model.width // model.heads,
        num_layers=model.layers,
        embedding_dim=model.width,
        num_embeddings=TOKENS,
    )
    net.load_state_dict(_prior_to_diffusers(ours.calls.net.state_dict()), strict=False)
    scale: Any = ours.calls.net.scale

    def call(x: Tensor, t: Tensor, z_t: Tensor, features: Tensor, mask: Tensor) -> Tensor:
        return net(x, t, z_t * scale, features, mask, return_dict=False)[0]

    name = "diffusers PriorTransformer"
    return Peer(name, Calls(net, call, call), (BasicTransformerBlock,), equal=True)


def diffusion_prior_network(ours: Network) -> Peer:
    """The prior of dalle2-pytorch, for which zeros in a caption are padding."""
    name = "dalle2-pytorch DiffusionPriorNetwork"
    try:
        from dalle2_pytorch import dalle2_pytorch as dalle2
    except ImportError as error:
        raise Missing(f"{name}: not installed: pip install dalle2-pytorch ({error})") from None
    model = ours.model
    width, head = model.width, model.width // model.heads
    # A layer has 2 W² + 2 W·head numbers in its attention and 3 W·hidden in its MLP; ours 12 W².
    hidden = 32 * round((10 * width - 2 * head) / 3 / 32)
    net = dalle2.DiffusionPriorNetwork(
        width,
        max_text_len=TOKENS,
        depth=model.layers,
        heads=model.heads,
        dim_head=head,
        ff_mult=(hidden + 0.5) / width,
    )

    def call(x: Tensor, t: Tensor, z_t: Tensor, features: Tensor, mask: Tensor) -> Tensor:
        return net(x, t, text_embed=z_t, text_encodings=features * mask[:, :, None])

    blocks = {type(part) for layer in net.causal_transformer.layers for part in layer}
    return Peer(name, Calls(net, call, call), tuple(blocks), equal=False)


def unet_2d_condition(ours: Network) -> Peer:
    """The decoder of unCLIP in diffusers, in the layout of Karlo."""
    from diffusers import UNet2DConditionModel

    unet = ours.model.unet
    crossed = len(unet.multiples) - 1
    net = UNet2DConditionModel(
        in_channels=3,
        down_block_types=("ResnetDownsampleBlock2D", *["SimpleCrossAttnDownBlock2D"] * crossed),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=(*["SimpleCrossAttnUpBlock2D"] * crossed, "ResnetUpsampleBlock2D"),
        cross_attention_dim=ours.model.text.width,
        class_embed_type="identity",
        attention_head_dim=unet.head_channels,
        **_shape(unet),
    )
    _copy(net, ours.calls.net)

    def call(x: Tensor, t: Tensor, offset: Tensor, context: Tensor) -> Tensor:
        return net(x, t, context, class_labels=offset, return_dict=False)[0]

    return Peer("diffusers UNet2DConditionModel", Calls(net, call, call), _blocks(), equal=True)


def unet_2d(ours: Network) -> Peer:
    """The upsampler of unCLIP in diffusers."""
    from diffusers import UNet2DModel

    unet = ours.model.unet
    levels = len(unet.multiples)
    net = UNet2DModel(
        in_channels=6,
        down_block_types=("ResnetDownsampleBlock2D",) * levels,
        up_block_types=("ResnetUpsampleBlock2D",) * levels,
        add_attention=False,
        **_shape(unet),
    )
    inner: Any = ours.calls.net
    _copy(net, inner.unet)

    def call(x: Tensor, t: Tensor, low: Tensor) -> Tensor:
        return net(torch.cat([x, low], dim=1), t, return_dict=False)[0]

    return Peer("diffusers UNet2DModel", Calls(net, call, call), _blocks(), equal=True)


def _copy(net: nn.Module, unet: Any) -> None:
    """Give ``unet`` the weights of diffusers' ``net``."""
    state, expected = net.state_dict(), unet.state_dict()
    unet.load_state_dict(to_ours(state, maps.diffusers(unet), expected=expected, source="peer"))


PEERS = {
    "prior": [prior_transformer, diffusion_prior_network],
    "decoder": [unet_2d_condition],
    "upsampler": [unet_2d],
    "ar_prior": [],
    "clip": [],
}


def check_same(ours: Network, peer: Peer) -> None:
    """Stop if the two do not compute the same, but for rounding in float32."""
    inputs = ours.inputs(2)
    with torch.no_grad():
        want, got = ours.calls.sample(*inputs), peer.calls.sample(*inputs)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-4 * want.abs().max().item())


def compile_peer(peer: Peer, how: str) -> None:
    """As `compile_blocks` compiles ours."""
    if how == "model":
        peer.calls.net.compile()
    if how == "blocks":
        for module in _outermost(peer.calls.net, peer.blocks):
            module.compile()


def _outermost(net: nn.Module, kinds: tuple[type[nn.Module], ...]) -> list[nn.Module]:
    if isinstance(net, kinds):
        return [net]
    return [found for child in net.children() for found in _outermost(child, kinds)]


PRIOR_NAMES = {
    r"transformer\.blocks": "transformer_blocks",
    r"attention\.out": "attn1.to_out.0",
    "attention_norm": "norm1",
    "mlp_norm": "norm3",
    r"mlp\.0": "ff.net.0.proj",
    r"mlp\.2": "ff.net.2",
    "z_t_in": "embedding_proj",
    "x_t_in": "proj_in",
    "features_in": "encoder_hidden_states_proj",
    r"time\.hidden": "time_embedding.linear_1",
    r"time\.out": "time_embedding.linear_2",
    r"^norm\.": "norm_out.",
    r"^out\.": "proj_to_clip_embeddings.",
}


def _prior_to_diffusers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our prior's weights under the names of diffusers'."""
    theirs = {
        "prd_embedding": state.pop("query")[None, None],
        "positional_embedding": state.pop("positions")[None],
    }
    for name, tensor in state.items():
        for ours, their in PRIOR_NAMES.items():
            name = re.sub(ours, their, name)
        thirds = tensor.chunk(3) if "attention.qkv" in name else [tensor]
        for letter, third in zip("qkv", thirds):
            theirs[name.replace("attention.qkv", f"attn1.to_{letter}")] = third
    return theirs


def _shape(unet: Any) -> dict[str, Any]:
    """What diffusers' two U-Nets have in common, of our shape."""
    return {
        "out_channels": 6,
        "block_out_channels": [m * unet.channels for m in unet.multiples],
        "layers_per_block": unet.blocks,
        "norm_num_groups": unet.norm_groups,
        "resnet_time_scale_shift": "scale_shift",
    }


def _blocks() -> tuple[type[nn.Module], ...]:
    from diffusers.models.attention_processor import Attention
    from diffusers.models.resnet import ResnetBlock2D

    return ResnetBlock2D, Attention
