"""Names of GLIDE's networks: flat state dicts, U-Net and caption transformer side by side.

The same for base, upsampler and their inpainting kin: the two input channels more, or the four, are
of the first convolution alone.
"""

from __future__ import annotations

from typing import Any

from unclip.stages.decoder.network import Decoder
from unclip.stages.upsampler.network import Upsampler
from unclip.weights.maps import unet
from unclip.weights.maps.rules import Rule, by_head, prefixed

BLOCK = {  # of the caption transformer
    "ln_1": "attention_norm",
    "attn.c_proj": "attention.out",
    "ln_2": "mlp_norm",
    "mlp.c_fc": "mlp.0",
    "mlp.c_proj": "mlp.2",
}


def glide(net: Decoder | Upsampler) -> list[Rule]:
    """Rules of ``base.pt``, ``upsample.pt`` and their ``_inpaint`` for a network with captions."""
    text: Any = net.text
    heads = text.transformer.blocks[0].attention.heads
    theirs, ours = "transformer.resblocks.{L}", "text.transformer.blocks.{L}"
    rules = [
        Rule("token_embedding.weight", "text.table.weight"),
        Rule("positional_embedding", "text.positions"),
        Rule("padding_embedding", "text.padding"),
        Rule("final_ln.{w}", "text.norm.{w}"),
        Rule("transformer_proj.{w}", "text_to_time.{w}"),
        Rule(f"{theirs}.attn.c_qkv.{{w}}", f"{ours}.attention.qkv.{{w}}", by_head(3, heads=heads)),
    ]
    rules += [Rule(f"{theirs}.{a}.{{w}}", f"{ours}.{b}.{{w}}") for a, b in BLOCK.items()]
    return rules + prefixed(unet.original(net.unet), ours="unet.")
