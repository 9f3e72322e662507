"""The configuration files of diffusers' and transformers' classes, for stages of ours.

A file has every field of its class, as `save_pretrained` writes them. What says nothing about the
network is as it was in the files that the stage was imported from, which its provenance tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unclip.embeddings.tokens import END_OF_TEXT, VOCABULARY
from unclip.nn.config import ConvUNetConfig
from unclip.stages.clip.config import ClipConfig
from unclip.stages.decoder.config import DecoderConfig
from unclip.stages.diffusion_prior.config import DiffusionPriorConfig
from unclip.stages.upsampler.config import UpsamplerConfig

Values = dict[str, Any]

SAME_WIDTH = ("time_embed_dim", "embedding_proj_dim", "clip_embed_dim")
"""Of a PriorTransformer: null, or the number that null stands for."""

_PREDICTIONS = {"x0": "sample", "eps": "epsilon"}
_VARIANCES = {"fixed_small": "fixed_small_log", "learned_range": "learned_range"}
_TIMES = {"scale_shift": "scale_shift", "additive": "default"}
_BOTH: Values = {  # of UNet2DConditionModel and UNet2DModel
    "act_fn": "silu",
    "center_input_sample": False,
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-5,
    "num_class_embeds": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
}


def with_notes(fresh: Values, theirs: object, free: tuple[str, ...] = ()) -> Values:
    """``fresh`` with the notes of the configuration that a stage was imported from.

    Args:
        fresh: Every field, by a function of this module.
        theirs: Of the artifact's provenance: what another has written, or nothing.
        free: Fields that a reader ignores, as `unclip.weights.settings.Settings.ignored` does.
    """
    if not isinstance(theirs, Mapping):
        return fresh
    plain = (int, float, str, bool, type(None))
    kept = {k: theirs[k] for k in free if k in theirs and isinstance(theirs[k], plain)}
    absent = {k: v for k, v in theirs.items() if k not in fresh and (v is None or v is False)}
    return fresh | absent | kept


def prior(model: DiffusionPriorConfig, theirs: object = None) -> Values:
    """A PriorTransformer's."""
    dim = model.embed_dim
    fresh: Values = {
        "_class_name": "PriorTransformer",
        "added_emb_type": "prd",
        "additional_embeddings": 4,
        "attention_head_dim": model.width // model.heads,
        "clip_embed_dim": None,
        "dropout": model.dropout,
        "embedding_dim": dim,
        "embedding_proj_dim": None,
        "embedding_proj_norm_type": None,
        "encoder_hid_proj_type": "linear",
        "norm_in_type": None,
        "num_attention_heads": model.heads,
        "num_embeddings": model.context,
        "num_layers": model.layers,
        "time_embed_act_fn": "silu",
        "time_embed_dim": None,
    }
    if isinstance(theirs, Mapping):
        meant = dict(zip(SAME_WIDTH, (model.width, dim, dim)))
        fresh |= {k: v for k, v in meant.items() if theirs.get(k) == v}
    return with_notes(fresh, theirs, ("_diffusers_version",))


def decoder(model: DecoderConfig, theirs: object = None) -> Values:
    """A UNet2DConditionModel's, of a decoder that learns its variance."""
    unet = model.unet
    levels = unet.attention_levels(model.image_size)
    kinds = ["SimpleCrossAttn" if k in levels else "Resnet" for k in range(len(unet.multiples))]
    ways = {
        "down_block_types": [
            f"{k}DownBlock2D" if k != "Resnet" else f"{k}DownsampleBlock2D" for k in kinds
        ],
        "up_block_types": [
            f"{k}UpBlock2D" if k != "Resnet" else f"{k}UpsampleBlock2D" for k in reversed(kinds)
        ],
    }
    fresh = (
        _BOTH
        | _shape(unet)
        | ways
        | {
            "_class_name": "UNet2DConditionModel",
            "addition_embed_type": None,
            "addition_embed_type_num_heads": 64,
            "addition_time_embed_dim": None,
            "attention_head_dim": unet.head_channels,
            "attention_type": "default",
            "class_embed_type": "identity",
            "class_embeddings_concat": False,
            "conv_in_kernel": 3,
            "conv_out_kernel": 3,
            "cross_attention_dim": model.text.width,
            "cross_attention_norm": None,
            "dual_cross_attention": False,
            "encoder_hid_dim": None,
            "encoder_hid_dim_type": None,
            "in_channels": 3,
            "mid_block_only_cross_attention": None,
            "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
            "num_attention_heads": None,
            "only_cross_attention": False,
            "out_channels": 6,
            "projection_class_embeddings_input_dim": None,
            "resnet_out_scale_factor": 1.0,
            "resnet_skip_time_act": False,
            "reverse_transformer_layers_per_block": None,
            "sample_size": model.image_size,
            "time_cond_proj_dim": None,
            "time_embedding_act_fn": None,
            "timestep_post_act": None,
            "transformer_layers_per_block": 1,
            "upcast_attention": False,
            "use_linear_projection": False,
        }
    )
    return with_notes(fresh, theirs, ("_diffusers_version",))


def text_proj(model: DecoderConfig, theirs: object = None) -> Values:
    """An UnCLIPTextProjModel's."""
    fresh = {
        "_class_name": "UnCLIPTextProjModel",
        "clip_embeddings_dim": model.embed_dim,
        "clip_extra_context_tokens": model.clip_tokens,
        "cross_attention_dim": model.text.width,
        "time_embed_dim": 4 * model.unet.channels,
    }
    return with_notes(fresh, theirs, ("_diffusers_version",))


def upsampler(model: UpsamplerConfig, learns_variance: bool, theirs: object = None) -> Values:
    """A UNet2DModel's; its ``attention_head_dim`` and ``num_train_timesteps`` mean nothing."""
    count = len(model.unet.multiples)
    fresh = (
        _BOTH
        | _shape(model.unet)
        | {
            "_class_name": "UNet2DModel",
            "add_attention": False,
            "attention_head_dim": 8,
            "attn_norm_num_groups": None,
            "class_embed_type": None,
            "down_block_types": ["ResnetDownsampleBlock2D"] * count,
            "downsample_type": "conv",
            "in_channels": 6,
            "mid_block_type": "UNetMidBlock2D",
            "num_train_timesteps": None,
            "out_channels": 6 if learns_variance else 3,
            "sample_size": model.image_size,
            "up_block_types": ["ResnetUpsampleBlock2D"] * count,
            "upsample_type": "conv",
        }
    )
    free = ("_diffusers_version", "attention_head_dim", "num_train_timesteps")
    return with_notes(fresh, theirs, free)


def _shape(unet: ConvUNetConfig) -> Values:
    return {
        "block_out_channels": [m * unet.channels for m in unet.multiples],
        "dropout": unet.dropout,
        "layers_per_block": unet.blocks,
        "norm_num_groups": unet.norm_groups,
        "resnet_time_scale_shift": _TIMES[unet.time],
    }


def scheduler(diffusion: Any, sampler: Any, theirs: object = None) -> Values:
    """An UnCLIPScheduler's; where nothing is clamped ``clip_sample_range`` means nothing."""
    clamps = sampler.clip == "static"
    fresh = {
        "_class_name": "UnCLIPScheduler",
        "beta_schedule": "squaredcos_cap_v2",
        "clip_sample": clamps,
        "clip_sample_range": sampler.clip_range if clamps else 1.0,
        "num_train_timesteps": diffusion.steps,
        "prediction_type": _PREDICTIONS[diffusion.prediction],
        "variance_type": _VARIANCES[diffusion.variance],
    }
    free = ("_diffusers_version",) if clamps else ("_diffusers_version", "clip_sample_range")
    return with_notes(fresh, theirs, free)


def text_encoder(model: ClipConfig, scale: float, dtype: str, theirs: object = None) -> Values:
    """A CLIPTextModelWithProjection's.

    ``scale`` is the logarithm of CLIP's inverse temperature, of which this class has no tensor.
    """
    fresh = {
        "architectures": ["CLIPTextModelWithProjection"],
        "bos_token_id": END_OF_TEXT - 1,
        "eos_token_id": END_OF_TEXT,
        "hidden_size": model.text_width,
        "intermediate_size": 4 * model.text_width,
        "logit_scale_init_value": scale,
        "max_position_embeddings": model.context,
        "model_type": "clip_text_model",
        "num_attention_heads": model.text_heads,
        "num_hidden_layers": model.text_layers,
        "pad_token_id": 0,
        "vocab_size": VOCABULARY,
    }
    free = (*_CLIP_NOTES, "bos_token_id", "eos_token_id", "pad_token_id")
    return with_notes(_half_of_clip(model, dtype, theirs) | fresh, theirs, free)


def image_encoder(model: ClipConfig, dtype: str, theirs: object = None) -> Values:
    """A CLIPVisionModelWithProjection's."""
    fresh = {
        "architectures": ["CLIPVisionModelWithProjection"],
        "hidden_size": model.vision_width,
        "image_size": model.image_size,
        "intermediate_size": model.vision_mlp or 4 * model.vision_width,
        "model_type": "clip_vision_model",
        "num_attention_heads": model.vision_width // model.vision_head_width,
        "num_channels": 3,
        "num_hidden_layers": model.vision_layers,
        "patch_size": model.patch_size,
    }
    return with_notes(_half_of_clip(model, dtype, theirs) | fresh, theirs, _CLIP_NOTES)


_CLIP_NOTES = (
    *("attention_dropout", "dropout", "initializer_factor", "initializer_range"),
    "transformers_version",
)


def _half_of_clip(model: ClipConfig, dtype: str, theirs: object) -> Values:
    older = isinstance(theirs, Mapping) and "torch_dtype" in theirs
    return {
        "attention_dropout": 0.0,
        "torch_dtype" if older else "dtype": dtype,
        "hidden_act": "quick_gelu" if model.quick_gelu else "gelu",
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-5,
        "projection_dim": model.embed_dim,
    }
