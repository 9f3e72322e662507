"""Builds a stage's module, data and network from its experiment."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from unclip import artifacts, config, registry
from unclip.embeddings.codec import Codec
from unclip.models.clip import FrozenClip, Tokenizer
from unclip.models.configs import DiffusionPriorConfig
from unclip.types import UserError

if TYPE_CHECKING:  # planning and validating need no Lightning
    from data_modules.base import StageData
    from data_modules.embeddings.source import EmbeddingSource
    from unclip.training.stage import Stage


def build_stage(entry: registry.StageEntry, experiment: Any, clip: FrozenClip | None) -> Stage:
    """The LightningModule of a stage, freshly initialised."""
    if entry.name == "clip":
        from unclip.stages.clip import ClipStage

        return ClipStage(experiment)
    if entry.name == "upsampler":
        from unclip.stages.upsampler import UpsamplerStage

        return UpsamplerStage(experiment)
    assert clip is not None
    if entry.name == "diffusion_prior":
        from unclip.stages.diffusion_prior import DiffusionPriorStage

        return DiffusionPriorStage(experiment, clip)
    if entry.name == "ar_prior":
        from unclip.stages.ar_prior import ArPriorStage

        return ArPriorStage(experiment, clip, artifacts.load_codec(experiment.pca, clip))
    from unclip.stages.decoder import DecoderStage

    return DecoderStage(experiment, clip)


def build_data(entry: registry.StageEntry, experiment: Any, clip: FrozenClip | None) -> StageData:
    """The LightningDataModule of a stage."""
    common: dict[str, Any] = {
        "seed": experiment.trainer.seed,
        "accumulate": experiment.trainer.accumulate,
    }
    if entry.name == "clip":
        from data_modules.clip import ClipData

        return ClipData(
            experiment.data,
            image_size=experiment.model.image_size,
            tokenize=Tokenizer(experiment.model.context),
            **common,
        )
    if entry.name == "upsampler":
        from data_modules.upsampler import UpsamplerData

        return UpsamplerData(experiment.data, image_size=experiment.model.image_size, **common)
    assert clip is not None
    from_clip: dict[str, Any] = {
        "clip_image_size": clip.model.image_size,
        "clip_tokenize": clip.model.tokenize,
        "embeddings": _open_embeddings(experiment.data.embeddings, clip),
    }
    if entry.name in ("pca", "ar_prior", "diffusion_prior"):
        from data_modules.prior import PriorData

        own = {
            "pca": lambda: None,
            "ar_prior": lambda: Tokenizer(experiment.model.text.context),
            "diffusion_prior": lambda: Tokenizer(experiment.model.context),
        }[entry.name]()
        return PriorData(experiment.data, tokenize=own, **from_clip, **common)
    from data_modules.decoder import DecoderData

    return DecoderData(
        experiment.data,
        image_size=experiment.model.image_size,
        tokenize=Tokenizer(experiment.model.text.context),
        **from_clip,
        **common,
    )


def _open_embeddings(path: str | None, clip: FrozenClip) -> EmbeddingSource | None:
    """What ``data.embeddings`` names, if anything; those of another CLIP are refused."""
    if path is None:
        return None
    from data_modules.embeddings.source import EmbeddingSource

    source = EmbeddingSource(Path(path).expanduser())
    source.check_clip(clip)
    return source


def fit_to_clip(experiment: Any, clip: FrozenClip) -> None:
    """Fill in the sizes that the CLIP decides; refuse those that contradict it."""
    model = experiment.model
    if model.embed_dim not in (None, clip.model.embed_dim):
        raise UserError(
            f"model.embed_dim={model.embed_dim}: the CLIP {clip.source} has "
            f"{clip.model.embed_dim}; give that or null"
        )
    model.embed_dim = clip.model.embed_dim
    if getattr(model, "caption", None) == "clip":
        width = clip.model.text_width
        if model.clip_text_width not in (None, width):
            raise UserError(
                f"model.clip_text_width={model.clip_text_width}: the CLIP {clip.source} has "
                f"{width}; give that or null"
            )
        model.clip_text_width = width
        if isinstance(model, DiffusionPriorConfig):
            model.context = clip.model.context


def fit_to_codec(experiment: Any, codec: Codec) -> None:
    """Fill in the sizes that the PCA decides; refuse those that contradict it."""
    model = experiment.model
    for name, value in (("codes", codec.k), ("buckets", codec.buckets)):
        if getattr(model, name) not in (None, value):
            raise UserError(
                f"model.{name}={getattr(model, name)}: {experiment.pca} has {value}; give that or "
                "null"
            )
        setattr(model, name, value)
    model.validate()


def clip_dims(spec: str) -> dict[str, int]:
    """D, W and the text's length of the CLIP an experiment names, without loading weights."""
    if spec.startswith("open_clip:"):
        from unclip.models.clip import open_clip_dims

        return open_clip_dims(spec)
    if spec.endswith(".yaml") or (spec.startswith("clip/") and not Path(spec).is_dir()):
        model = dataclasses.asdict(config.load(spec).config.model)
    else:
        model = artifacts.describe(spec, key="clip").config["model"]
    return {name: model[name] for name in ("embed_dim", "text_width", "context")}


def build_net(resolved: config.Resolved) -> torch.nn.Module:
    """The network of a stage that trains, on the default device; sizes are the named CLIP's."""
    model = resolved.config.model
    if resolved.stage.name == "clip":
        from unclip.models.clip import Clip

        return Clip.from_config(model)
    if resolved.stage.name == "upsampler":
        from unclip.models.upsampler import Upsampler

        return Upsampler(model)
    dims = clip_dims(resolved.config.clip)
    embed_dim = model.embed_dim or dims["embed_dim"]
    text_width = getattr(model, "clip_text_width", None) or dims["text_width"]
    if resolved.stage.name == "diffusion_prior":
        from unclip.models.diffusion_prior import DiffusionPrior

        if model.caption == "clip":
            model = dataclasses.replace(model, context=dims["context"])
        return DiffusionPrior(model, embed_dim, text_width)
    if resolved.stage.name == "ar_prior":
        from unclip.models.ar_prior import ArPrior

        codec = Codec.empty(embed_dim, *_codec_shape(resolved.config, embed_dim))
        return ArPrior(model, codec, text_width)
    from unclip.models.decoder import Decoder

    return Decoder(model, embed_dim)


def count_parameters(resolved: config.Resolved) -> int:
    """Trainable parameters, from a network built on the meta device.

    Raises `UserError` where the experiment's sizes make no network.
    """
    if resolved.stage.name == "pca":
        return 0
    try:
        with torch.device("meta"):
            net = build_net(resolved)
    except (ValueError, RuntimeError, ZeroDivisionError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"{resolved.files[0]}: model: cannot be built: {reason}") from None
    return sum(p.numel() for p in net.parameters())


def _codec_shape(experiment: Any, embed_dim: int) -> tuple[int, int]:
    """Components and buckets: the model's, else the PCA's (at most D, if an error chooses)."""
    model, spec = experiment.model, experiment.pca
    if Path(spec).is_dir():
        codec = Codec.from_tensors(artifacts.describe(spec, key="pca").weights())
        return model.codes or codec.k, model.buckets or codec.buckets
    fitted = config.load(spec).config.pca
    return model.codes or fitted.components or embed_dim, model.buckets or fitted.buckets
