"""Names of Karlo's and Kandinsky's prior, in their own layout and in diffusers' PriorTransformer.

Both are our `DiffusionPrior` with ``caption: clip`` and ``standardise``. They take z_t as it is.
Ours multiplies a unit z_t by `DiffusionPrior.scale`; that is folded into their weight, so they too
take a unit z_t, and what they make must be divided by its length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from unclip.stages.diffusion_prior.network import DiffusionPrior
from unclip.weights.maps.rules import DROP_FIRST, SAME, Rule, by_head, concatenate, of_one
from unclip.weights.maps.rules import to_theirs as renamed

LAYERS = {  # Karlo's, diffusers' and our name, of what has a weight and a bias
    ("time_embed.0", "time_embedding.linear_1"): "time.hidden",
    ("time_embed.2", "time_embedding.linear_2"): "time.out",
    ("clip_img_proj", "proj_in"): "x_t_in",
    ("text_enc_proj", "encoder_hidden_states_proj"): "features_in",
    ("final_ln", "norm_out"): "norm",
    ("out_proj", "proj_to_clip_embeddings"): "out",
}
INSIDE = {  # of a block
    ("ln_1", "norm1"): "attention_norm",
    ("attn.c_proj", "attn1.to_out.0"): "attention.out",
    ("ln_2", "norm3"): "mlp_norm",
    ("mlp.c_fc", "ff.net.0.proj"): "mlp.0",
    ("mlp.c_proj", "ff.net.2"): "mlp.2",
}
BLOCKS = ("transformer.resblocks.{L}", "transformer_blocks.{L}")
OUR_BLOCK = "transformer.blocks.{L}"
FLATTEN = of_one(lambda x: x.flatten(), lambda x: x[None, None])


def karlo(net: DiffusionPrior) -> list[Rule]:
    """Rules of a prior's checkpoint by Karlo or Kandinsky 2.1, with its `stats`."""
    qkv = Rule(
        f"{BLOCKS[0]}.attn.c_qkv.{{w}}",
        f"{OUR_BLOCK}.attention.qkv.{{w}}",
        by_head(3, heads=net.config.heads),
    )
    rules = [*_rules(0), *_read_z_t("text_emb_proj", net), qkv]
    rules += [
        Rule("positional_embedding", "positions", DROP_FIRST),
        Rule("prd_emb", "query", FLATTEN),
    ]
    outside = [Rule(f"stats.{name}", name) for name in ("mean", "std")]
    return [Rule(f"model.{rule.theirs}", rule.ours, rule.change) for rule in rules] + outside


DEVIATIONS = frozenset({"stats.std", "clip_std"})
"""What their standard deviations of z_i are called."""


def stats(pair: Sequence[Tensor]) -> dict[str, Tensor]:
    """The pair of their ``ViT-L-14_stats.th`` under the names that `karlo` has for it."""
    mean, std = pair
    return {"stats.mean": mean, "stats.std": std}


def diffusers(net: DiffusionPrior) -> list[Rule]:
    """Rules of diffusers' PriorTransformer."""
    return [
        *_rules(1),
        *_read_z_t("embedding_proj", net),
        Rule(
            tuple(f"{BLOCKS[1]}.attn1.to_{part}.{{w}}" for part in "qkv"),
            f"{OUR_BLOCK}.attention.qkv.{{w}}",
            concatenate(3),
        ),
        Rule("positional_embedding", "positions", DROP_FIRST),
        Rule("prd_embedding", "query", FLATTEN),
        Rule("clip_mean", "mean", DROP_FIRST),
        Rule("clip_std", "std", DROP_FIRST),
    ]


def to_diffusers(
    net: DiffusionPrior, weights: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """The weights of ``net`` as those of a PriorTransformer, which always standardises.

    ``weights`` are given for a ``net`` on "meta".

    Raises:
        UserError: ``net`` reads own tokens, for which it has no place.
    """
    state = dict(net.state_dict() if weights is None else weights)
    if not net.config.standardise:
        like = state["out.bias"]
        state |= {"mean": torch.zeros_like(like), "std": torch.full_like(like, 1 / net.scale)}
    return renamed(state, diffusers(net))


def _rules(layout: int) -> list[Rule]:
    """Those that differ in names alone."""
    rules = [Rule(f"{names[layout]}.{{w}}", f"{ours}.{{w}}") for names, ours in LAYERS.items()]
    return rules + [
        Rule(f"{BLOCKS[layout]}.{names[layout]}.{{w}}", f"{OUR_BLOCK}.{ours}.{{w}}")
        for names, ours in INSIDE.items()
    ]


def _read_z_t(theirs: str, net: DiffusionPrior) -> list[Rule]:
    """The layer that reads z_t; the change of its weight is SAME where embeddings are raw."""
    scale, change = net.scale, SAME
    if scale != 1:
        change = of_one(lambda weight: weight / scale, lambda weight: weight * scale)
    return [
        Rule(f"{theirs}.weight", "z_t_in.weight", change),
        Rule(f"{theirs}.bias", "z_t_in.bias"),
    ]
