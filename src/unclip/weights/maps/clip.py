"""Names of transformers' CLIPs and of OpenAI's own, in open_clip's layout, which is ours."""

from __future__ import annotations

from unclip.weights.maps.rules import SAME, TRANSPOSE, Rule, concatenate, of_one

INSIDE = {  # of a block, on both sides
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
IGNORED = ("text_model.embeddings.position_ids", "vision_model.embeddings.position_ids")
"""Tables of integers in old files, without meaning."""
OPENAI_IGNORED = ("input_resolution", "context_length", "vocab_size")
SCALE = Rule("logit_scale", "logit_scale", of_one(lambda x: x.reshape(1), lambda x: x.reshape(())))
"""A scalar in files, a vector of one in our networks."""


def transformers() -> list[Rule]:
    """Rules of a CLIPModel, and of CLIPTextModelWithProjection and its vision half together."""
    return [
        *_blocks("text_model", ""),
        *_blocks("vision_model", "visual."),
        Rule("text_model.embeddings.token_embedding.weight", "token_embedding.weight"),
        Rule("text_model.embeddings.position_embedding.weight", "positional_embedding"),
        Rule("text_model.final_layer_norm.{w}", "ln_final.{w}"),
        Rule("text_projection.weight", "text_projection", TRANSPOSE),
        Rule("vision_model.embeddings.class_embedding", "visual.class_embedding"),
        Rule("vision_model.embeddings.patch_embedding.weight", "visual.conv1.weight"),
        Rule("vision_model.embeddings.position_embedding.weight", "visual.positional_embedding"),
        Rule("vision_model.pre_layrnorm.{w}", "visual.ln_pre.{w}"),
        Rule("vision_model.post_layernorm.{w}", "visual.ln_post.{w}"),
        Rule("visual_projection.weight", "visual.proj", TRANSPOSE),
        SCALE,
    ]


def openai(names: list[str]) -> list[Rule]:
    """Rules of OpenAI's files, which open_clip's network has taken its names from."""
    return [SCALE, *(Rule(name, name, SAME) for name in names if name != "logit_scale")]


def _blocks(theirs: str, ours: str) -> list[Rule]:
    block, own = f"{theirs}.encoder.layers.{{L}}", f"{ours}transformer.resblocks.{{L}}"
    parts = [f"{block}.self_attn.{part}_proj" for part in "qkv"]
    return [
        Rule(
            tuple(f"{part}.weight" for part in parts), f"{own}.attn.in_proj_weight", concatenate(3)
        ),
        Rule(tuple(f"{part}.bias" for part in parts), f"{own}.attn.in_proj_bias", concatenate(3)),
        *(Rule(f"{block}.{name}.{{w}}", f"{own}.{our}.{{w}}") for name, our in INSIDE.items()),
    ]
