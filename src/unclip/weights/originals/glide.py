"""GLIDE's ``base.pt``, ``upsample.pt`` and their ``_inpaint``, told by their input channels.

What no tensor says is as in GLIDE's ``model_creation.py`` and notebooks, unless a ``config.json``
beside them has a section of the network's name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unclip.common import artifacts
from unclip.common.errors import UserError
from unclip.diffusion.config import FAST27, GuidedSamplerConfig, ImageDiffusionConfig
from unclip.diffusion.schedules import sampling_schedule
from unclip.embeddings.gpt2 import Gpt2Tokenizer, ready
from unclip.nn.config import ConvUNetConfig, TextEncoderConfig, UNetConfig
from unclip.stages.decoder.config import DecoderConfig, DecoderExperiment
from unclip.stages.upsampler.config import (
    UpsamplerConfig,
    UpsamplerExperiment,
    UpsamplerSamplerConfig,
)
from unclip.weights.found import Found
from unclip.weights.maps.glide import glide
from unclip.weights.originals.unet import (
    State,
    check_blocks,
    check_levels,
    head_channels,
    shape_of,
    unet_shape,
)
from unclip.weights.reading.folders import MERGES, Source
from unclip.weights.settings import SCHEDULES, Settings, clamp

KINDS = {3: "base", 6: "upsample", 7: "base_inpaint", 10: "upsample_inpaint"}
"""By the channels that the first convolution takes."""


def kind_of(state: State, where: str) -> str:
    """Which of the four it is."""
    channels = shape_of(state, "input_blocks.0.0.weight", where, 4)[1]
    if channels not in KINDS:
        raise UserError(
            f"{where}: input_blocks.0.0.weight takes {channels} channels; GLIDE's networks take "
            "3, 6, 7 or 10"
        )
    return KINDS[channels]


def network(
    kind: str, state: State, where: str, config: Settings, merges: Path, small: int | None
) -> Found:
    """One of the four networks.

    Args:
        kind: One of `KINDS`.
        state: Its tensors.
        where: What errors about it begin with.
        config: The section ``kind`` of ``config.json``, with ``n_vocab`` and ``norm_groups``.
        merges: GPT-2's merges.
        small: Pixels a side of the base that is beside an upsampler, if one is.
    """
    upsamples, inpaints = kind.startswith("upsample"), kind.endswith("inpaint")
    check_blocks(config)
    text = _text(state, where, config)
    ready(Gpt2Tokenizer(text.context, vocabulary=text.vocabulary, merges=str(merges)))
    size = config.get("image_size", int, 256 if upsamples else 64)
    unet = _unet(state, where, config, size)
    diffusion = ImageDiffusionConfig(
        steps=config.get("diffusion_steps", int, 1000),
        schedule=config.choice("noise_schedule", SCHEDULES, "linear" if upsamples else "cosine"),
    )
    config.fixed(in_channels=(3, next(n for n, k in KINDS.items() if k == kind)), out_channels=6)
    config.fixed(inpaint=inpaints, super_res=upsamples)
    config.fixed(encoder_channels=(None, text.width))
    config.ignored("cache_text_emb", "share_unemb")
    few = FAST27 if diffusion.steps >= 50 else diffusion.steps
    steps = _steps(config, diffusion.steps, few if upsamples else min(100, diffusion.steps))
    config.finish()
    shared: dict[str, Any] = {
        "image_size": size,
        "inpaint": inpaints,
        "tokenizer": "gpt2",
        "merges": artifacts.MERGES,
        "text": text,
    }
    experiment: DecoderExperiment | UpsamplerExperiment
    if upsamples:
        experiment = UpsamplerExperiment(
            model=UpsamplerConfig(
                low_size=small or size // 4,
                enlarge="bilinear",
                low_8_bit=True,
                use_caption=True,
                unet=ConvUNetConfig(**unet),
                **shared,
            ),
            diffusion=diffusion,
            sampler=UpsamplerSamplerConfig(
                sampler="ddpm" if inpaints else "ddim",
                steps=steps,
                start_scale=0.997,
                **clamp(1.0),
            ),
        )
    else:
        experiment = DecoderExperiment(
            model=DecoderConfig(use_z_i=False, unet=UNetConfig(**unet), **shared),
            diffusion=diffusion,
            sampler=GuidedSamplerConfig(
                sampler="ddpm", steps=steps, guidance=5.0 if inpaints else 3.0, **clamp(1.0)
            ),
        )
    return Found(where, experiment, glide, lambda: state, files={artifacts.MERGES: merges})


def merges_beside(source: Source, folder: str, given: Path | None, where: str) -> Path:
    """The file of GPT-2's merges: ``given``, or beside the weights.

    Raises:
        UserError: there is none.
    """
    if given is not None:
        return given
    for name in source.inside(folder):
        if name.rpartition("/")[2] in MERGES:
            return source.path(name)
    raise UserError(
        f"{where}: GLIDE reads captions by GPT-2's merges, which are not beside it; add --merges "
        "FILE, a merges.txt (vocab.bpe) such as that of openai-community/gpt2"
    )


def _text(state: State, where: str, config: Settings) -> TextEncoderConfig:
    vocabulary, width = shape_of(state, "token_embedding.weight", where)
    context = shape_of(state, "positional_embedding", where)[0]
    layers = len({k.split(".")[2] for k in state if k.startswith("transformer.resblocks.")})
    if not layers:
        raise UserError(f"{where}: transformer.resblocks.0 is missing; fetch the file again")
    heads = config.get("xf_heads", int, max(1, width // 64))
    if not heads or width % heads:
        raise config.refusal("xf_heads", heads)
    config.fixed(
        n_vocab=vocabulary,
        end_token=vocabulary - 1,
        text_ctx=context,
        xf_width=width,
        xf_layers=layers,
        xf_final_ln=True,
        xf_padding=True,
    )
    return TextEncoderConfig(
        context=context, vocabulary=vocabulary, width=width, layers=layers, heads=heads
    )


def _steps(config: Settings, total: int, published: int | str) -> int | str:
    """Those of ``timestep_respacing``; where it is empty or absent, those of GLIDE's notebooks."""
    steps = config.take("timestep_respacing")
    if steps in (None, ""):
        return published
    try:
        sampling_schedule(ImageDiffusionConfig(steps=total), steps)
    except UserError:
        raise UserError(
            f"{config.where}: timestep_respacing={str(steps)[:60]}: is not a number of {total} "
            f"steps, counts of sections or {FAST27}; remove it, and give the steps when you sample"
        ) from None
    return steps if isinstance(steps, str) else int(steps)


def _unet(state: State, where: str, config: Settings, size: int) -> dict[str, Any]:
    shape, levels = unet_shape(state, "", where)
    check_levels(config, size, shape["multiples"], levels)
    config.fixed(
        model_channels=shape["channels"],
        num_channels=shape["channels"],
        num_res_blocks=shape["blocks"],
        use_scale_shift_norm=shape["time"] == "scale_shift",
    )
    return {
        "attention": [size >> level for level in levels],
        "head_channels": head_channels(config),
        "dropout": config.share("dropout", 0.1),
        "norm_groups": config.get("norm_groups", int, 32),
        **shape,
    }
