"""UNet2DConditionModel and UnCLIPTextProjModel: Karlo's decoder."""

from __future__ import annotations

from typing import Any

from unclip.common.errors import UserError
from unclip.nn.config import UNetConfig
from unclip.stages.experiment import ParentSizes
from unclip.weights.diffusers.components import DECODER, TEXT_PROJ, Components
from unclip.weights.diffusers.unet import DOWN, UP, shape_of
from unclip.weights.found import Found
from unclip.weights.karlo_experiments import decoder_experiment
from unclip.weights.maps import decoder as decoder_map


def read_decoder(parts: Components, folders: list[str], half: bool) -> Found:
    """A decoder, with the folder of its projections."""
    folder, source = folders[0], parts.source
    s = parts.settings(folder)
    shape = shape_of(s, DOWN, UP)
    size, width = s.get("sample_size", int), s.get("cross_attention_dim", int)
    chain = parts.chain(DECODER, folder)
    s.fixed(
        in_channels=3,
        out_channels=6 if chain.diffusion.learns_variance else 3,
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        conv_in_kernel=3,
        conv_out_kernel=3,
        resnet_out_scale_factor=1.0,
        addition_embed_type_num_heads=64,
        attention_type="default",
        transformer_layers_per_block=1,
    )
    s.choice("class_embed_type", {"identity": "identity"}, "null")
    head = s.get("attention_head_dim", int)
    s.finish()
    if not (projections := parts.of(TEXT_PROJ)):
        raise UserError(
            f"{source.label}: {TEXT_PROJ} (the folder text_proj) is missing; a decoder needs it"
        )
    if len(projections) > 1:
        raise UserError(f"{source.label}: has {len(projections)} of {TEXT_PROJ}; give one of them")
    p = parts.settings(projections[0])
    tokens, dim = p.get("clip_extra_context_tokens", int, 4), p.get("clip_embeddings_dim", int, 768)
    p.fixed(time_embed_dim=4 * shape["channels"], cross_attention_dim=width)
    p.finish()
    levels = shape.pop("levels")
    unet = UNetConfig(attention=[size >> k for k in levels], head_channels=head, **shape)

    def state() -> dict[str, Any]:
        pairs = (("decoder", folder), ("text_proj", projections[0]))
        return {f"{n}.{k}": v for n, f in pairs for k, v in source.state(f, half=half).items()}

    return Found(
        source.where(folder),
        decoder_experiment(size, dim, tokens, width, unet, 25, chain),
        decoder_map.diffusers,
        state,
        ParentSizes(dim, dim),
        settings=parts.settings_of(DECODER, decoder=folder, text_proj=projections[0]),
        places={"text_proj.": source.where(projections[0])},
    )
