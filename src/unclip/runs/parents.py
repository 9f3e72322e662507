"""Builds a stage's module, data and network from its experiment."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import open_clip
import torch

from unclip.common import artifacts
from unclip.common.errors import UserError
from unclip.config.files import find_experiment
from unclip.config.load import OVERRIDE, ResolvedExperiment, load_experiment
from unclip.embeddings.clip import Clip, FrozenClip
from unclip.embeddings.codec import Codec
from unclip.embeddings.tokens import Tokenizer
from unclip.runs.folders import newest_artifact
from unclip.stages.clip.config import ClipConfig
from unclip.stages.diffusion_prior.config import DiffusionPriorConfig
from unclip.stages.pca.part import load_codec
from unclip.stages.row import StageEntry
from unclip.training.strategies import processes_started

if TYPE_CHECKING:  # planning and validating need no Lightning
    from data_modules.base import StageData
    from unclip.data.embedding_store.source import EmbeddingSource
    from unclip.training.stage import Stage


def build_stage(entry: StageEntry, experiment: Any, clip: FrozenClip | None) -> Stage:
    """The LightningModule of a stage, freshly initialised."""
    if entry.name == "clip":
        from unclip.stages.clip.stage import ClipStage

        return ClipStage(experiment)
    if entry.name == "upsampler":
        from unclip.stages.upsampler.stage import UpsamplerStage

        return UpsamplerStage(experiment)
    assert clip is not None
    if entry.name == "diffusion_prior":
        from unclip.stages.diffusion_prior.stage import DiffusionPriorStage

        return DiffusionPriorStage(experiment, clip)
    if entry.name == "ar_prior":
        from unclip.stages.ar_prior.stage import ArPriorStage

        return ArPriorStage(experiment, clip, load_codec(experiment.pca, clip))
    from unclip.stages.decoder.stage import DecoderStage

    return DecoderStage(experiment, clip)


def build_data(entry: StageEntry, experiment: Any, clip: FrozenClip | None) -> StageData:
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
    from unclip.data.embedding_store.source import EmbeddingSource

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
        from unclip.embeddings.clip import open_clip_dims

        return open_clip_dims(spec)
    if spec.endswith(".yaml") or (spec.startswith("clip/") and not Path(spec).is_dir()):
        model = dataclasses.asdict(load_experiment(spec).config.model)
    else:
        model = artifacts.describe(spec, key="clip").config["model"]
    return {name: model[name] for name in ("embed_dim", "text_width", "context")}


def build_net(resolved: ResolvedExperiment) -> torch.nn.Module:
    """The network of a stage that trains, on the default device; sizes are the named CLIP's."""
    model = resolved.config.model
    if resolved.stage.name == "clip":
        from unclip.embeddings.clip import Clip

        return Clip.from_config(model)
    if resolved.stage.name == "upsampler":
        from unclip.stages.upsampler.network import Upsampler

        return Upsampler(model)
    dims = clip_dims(resolved.config.clip)
    embed_dim = model.embed_dim or dims["embed_dim"]
    text_width = getattr(model, "clip_text_width", None) or dims["text_width"]
    if resolved.stage.name == "diffusion_prior":
        from unclip.stages.diffusion_prior.network import DiffusionPrior

        if model.caption == "clip":
            model = dataclasses.replace(model, context=dims["context"])
        return DiffusionPrior(model, embed_dim, text_width)
    if resolved.stage.name == "ar_prior":
        from unclip.stages.ar_prior.network import ArPrior

        codec = Codec.empty(embed_dim, *_codec_shape(resolved.config, embed_dim))
        return ArPrior(model, codec, text_width)
    from unclip.stages.decoder.network import Decoder

    return Decoder(model, embed_dim)


def count_parameters(resolved: ResolvedExperiment) -> int:
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
    fitted = load_experiment(spec).config.pca
    return model.codes or fitted.components or embed_dim, model.buckets or fitted.buckets


CLIP_CONTEXT = 77  # tokens, where an open_clip architecture does not say


def frozen_clip(spec: str) -> Clip:
    """The CLIP that an experiment names, on the default device and without its weights."""
    try:
        clip = _open_clip(spec) if spec.startswith("open_clip:") else _own(spec)
    except UserError:
        raise
    except Exception as error:  # some architectures ask a hub for the shape of their text tower
        first = str(error).strip().split("\n")[0]
        raise UserError(f"clip={spec}: cannot be built without its weights: {first}") from None
    return clip.eval().requires_grad_(False)


def _own(spec: str) -> Clip:
    if spec.endswith(".yaml") or (spec.startswith("clip/") and not Path(spec).is_dir()):
        return Clip.from_config(load_experiment(spec).config.model)
    artifact = artifacts.expect(artifacts.describe(spec, key="clip"), ("clip",), key="clip")
    return Clip.from_config(artifact.section("model", ClipConfig))


def _open_clip(spec: str) -> Clip:
    arch = spec.removeprefix("open_clip:").partition("@")[0].partition("/")[0]
    found = open_clip.get_model_config(arch)
    if found is None:
        raise UserError(f"clip={spec}: open_clip has no architecture {arch!r}")
    logging.disable(logging.WARNING)  # it would warn that no weights are loaded
    try:
        model = open_clip.create_model(arch, device=torch.get_default_device())
    finally:
        logging.disable(logging.NOTSET)
    return Clip(model, context=found["text_cfg"].get("context_length", CLIP_CONTEXT))


class Parents(NamedTuple):
    """The artifacts (or open_clip model) that an experiment leans on."""

    clip: str | None
    pca: str | None


Make = Callable[[ResolvedExperiment], Path]
"""Trains or fits an experiment and returns its artifact."""


def parents(resolved: ResolvedExperiment, *, make: Make | None = None) -> Parents:
    """What ``resolved`` depends on; ``make`` first makes what is missing.

    Raises:
        UserError: something is missing, or ``resolved`` is not for training.
    """
    if resolved.stage.name == "pca":
        raise UserError(f"{resolved.name}: is fitted, not trained: unclip fit-pca {resolved.name}")
    # Processes that were started together cannot train a parent first: each must do its part of it.
    make = None if processes_started() else make
    clip = resolve_parent(resolved, "clip", make=make)
    return Parents(clip, resolve_parent(resolved, "pca", make=make, clip=clip))


def resolve_parent(
    resolved: ResolvedExperiment, kind: str, *, make: Make | None, clip: str | None = None
) -> str | None:
    """The artifact (or open_clip model) that the experiment's field ``kind`` (clip, pca) names."""
    spec: str | None = getattr(resolved.config, kind, None)
    if not isinstance(spec, str) or spec.startswith("open_clip:") or Path(spec).is_dir():
        return spec if isinstance(spec, str) else None
    if not spec.startswith(f"{kind}/"):
        artifacts.describe(spec, key=kind)  # raises, saying what is missing
    root = resolved.config.run.root
    finished = newest_artifact(spec, root)
    if finished:
        return str(finished)
    if make is None:
        name = spec.removeprefix("clip/")
        command = f"make train-clip EXP={name}" if kind == "clip" else f"unclip fit-pca {spec}"
        raise UserError(
            f"{kind}={spec}: no finished run in {Path(root) / spec}; run `{command}` first, add "
            "--with-parents, or name an artifact" + " or open_clip:ARCH/TAG" * (kind == "clip")
        )
    find_experiment(spec)
    print(f"{resolved.name} leans on {spec}, which has no finished run: making it first")
    trainer = resolved.config.trainer
    given = [f"run.root={root}", f"trainer.seed={trainer.seed}"]
    given += [f"trainer.deterministic={trainer.deterministic}"]
    for name in ("source", "embeddings") if kind == "pca" else ("source",):
        if resolved.origins.get(f"data.{name}") == OVERRIDE:
            given.append(f"data.{name}={getattr(resolved.config.data, name)}")
    if kind == "pca":
        given.append(f"clip={clip}")
    return str(make(load_experiment(spec, given)))
