"""A network's blocks: what repeats, a transformer's layer or a U-Net's residual block."""

from __future__ import annotations

from open_clip.modified_resnet import Bottleneck
from open_clip.transformer import ResidualAttentionBlock
from torch import nn

from unclip.nn.context_attention import ContextBlock
from unclip.nn.multi_query import MultiQueryBlock
from unclip.nn.transformer import TransformerBlock
from unclip.nn.unet import Layer

BLOCKS = (
    TransformerBlock,
    ContextBlock,
    MultiQueryBlock,
    Layer,
    ResidualAttentionBlock,
    Bottleneck,
)


def blocks_of(net: nn.Module) -> list[nn.Module]:
    """The outermost blocks of ``net``, in the order of its modules."""
    if isinstance(net, BLOCKS):
        return [net]
    return [block for child in net.children() for block in blocks_of(child)]
