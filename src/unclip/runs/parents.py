"""The parents of an experiment: which they are, making them, and the sizes that they decide."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
import torch
from torch import nn

from unclip.common import artifacts
from unclip.common.errors import UserError
from unclip.config.files import find_experiment
from unclip.config.load import OVERRIDE, ResolvedExperiment, load_experiment
from unclip.embeddings.clip import Clip, open_clip_dims
from unclip.embeddings.codec import Codec
from unclip.embeddings.config import UNIT
from unclip.runs.ahead import announce
from unclip.runs.inputs import newest_artifact
from unclip.stages import registry
from unclip.stages.clip.config import ClipConfig
from unclip.stages.clip.network import build_clip
from unclip.stages.experiment import ParentSizes, embeddings_of
from unclip.stages.interface import LoadedParents
from unclip.stages.row import CLIP, PCA
from unclip.training.strategies import processes_started

CLIP_CONTEXT = 77  # tokens, where an open_clip architecture does not say


class Parents(NamedTuple):
    """The artifacts (or open_clip model) that an experiment depends on."""

    clip: str | None = None
    pca: str | None = None
    init: str | None = None  # what training begins from


Make = Callable[[ResolvedExperiment], Path]
"""Trains or fits an experiment and returns its artifact."""


def parents(resolved: ResolvedExperiment, *, make: Make | None = None) -> Parents:
    """What ``resolved`` depends on; ``make`` first makes what is missing.

    Raises:
        UserError: something is missing, or ``resolved`` is not for training.
    """
    refuse_fitted(resolved)
    # Processes that were started together cannot train a parent first: each must do its part of it.
    make = None if processes_started() else make
    if make is not None:
        announce(resolved, missing_parents(resolved))
    clip = resolve_parent(resolved, CLIP, make=make)
    return Parents(clip, resolve_parent(resolved, PCA, make=make, clip=clip))


def refuse_fitted(resolved: ResolvedExperiment) -> None:
    """Refuse an experiment whose stage is fitted and has no network to train."""
    if not resolved.stage.trains:
        verb = resolved.stage.verb
        raise UserError(f"{resolved.name}: is fitted, not trained: unclip {verb} {resolved.name}")


def missing_parents(resolved: ResolvedExperiment) -> list[ResolvedExperiment]:
    """The experiments without a finished run that ``resolved`` depends on, in their order."""
    kinds = [kind for kind in (CLIP, PCA) if kind in resolved.stage.parents]
    missing = [kind for kind in kinds if _existing(resolved, kind) is None]
    return [_parent_experiment(resolved, kind, resolved.config.clip) for kind in missing]


def resolve_parent(
    resolved: ResolvedExperiment, kind: str, *, make: Make | None, clip: str | None = None
) -> str | None:
    """The artifact (or open_clip model) that the experiment's field ``kind`` (clip, pca) names."""
    if kind not in resolved.stage.parents:
        return None
    spec: str = getattr(resolved.config, kind)
    if found := _existing(resolved, kind):
        return found
    if make is None:
        root = resolved.config.run.root
        command = f"unclip {load_experiment(spec).stage.verb} {spec}"
        raise UserError(
            f"{kind}={spec}: no finished run in {Path(root) / spec}; run `{command}` first, add "
            "--with-parents, or name an artifact" + " or open_clip:ARCH/TAG" * (kind == CLIP)
        )
    return str(make(_parent_experiment(resolved, kind, clip)))


def _existing(resolved: ResolvedExperiment, kind: str) -> str | None:
    """What stands for the field ``kind`` now; None if a run has to be made for it."""
    spec: str = getattr(resolved.config, kind)
    if spec.startswith("open_clip:") or Path(spec).is_dir():
        return spec
    if not spec.startswith(f"{kind}/"):
        artifacts.describe(spec, key=kind)  # raises, saying what is missing
    finished = newest_artifact(spec, resolved.config.run.root)
    return str(finished) if finished else None


def _parent_experiment(
    resolved: ResolvedExperiment, kind: str, clip: str | None
) -> ResolvedExperiment:
    """The experiment of the parent ``kind``, with what it shares with ``resolved``."""
    spec: str = getattr(resolved.config, kind)
    find_experiment(spec)
    trainer = resolved.config.trainer
    given = [f"run.root={resolved.config.run.root}", f"trainer.seed={trainer.seed}"]
    given += [f"trainer.deterministic={trainer.deterministic}"]
    for name in ("source", "embeddings") if kind == PCA else ("source",):
        if resolved.origins.get(f"data.{name}") == OVERRIDE:
            given.append(f"data.{name}={getattr(resolved.config.data, name)}")
    if kind == PCA:
        given.append(f"clip={clip}")
    return load_experiment(spec, given)


def load_parents(experiment: Any, parents: Parents) -> LoadedParents:
    """The frozen parents; ``experiment`` gets their paths, and the sizes that they decide.

    Raises:
        UserError: they are of different CLIPs or kinds of embeddings, or contradict the experiment.
    """
    if parents.clip is None:
        return LoadedParents()
    clip, codec = registry.STAGES[CLIP].load(parents.clip), None
    kind = embeddings_of(experiment)
    clip.agree(kind, where=f"embeddings={kind}")
    experiment.clip = parents.clip
    if parents.pca is not None:
        experiment.pca = parents.pca
        codec = registry.STAGES[PCA].load(parents.pca, clip)
    return LoadedParents(clip, codec, parents.pca or "")


def named_sizes(resolved: ResolvedExperiment) -> ParentSizes:
    """What the named parents decide, from their experiments or artifacts, without any weights."""
    sizes = ParentSizes()
    if CLIP in resolved.stage.parents:
        spec = resolved.config.clip
        dims = clip_dims(spec)
        sizes = ParentSizes(**dims, clip=spec)
    if PCA in resolved.stage.parents:
        embed_dim = resolved.config.model.embed_dim or sizes.embed_dim
        assert embed_dim is not None
        codes, buckets = _codec_shape(resolved.config.pca, embed_dim)
        sizes = sizes._replace(codes=codes, buckets=buckets, pca=resolved.config.pca)
    return sizes


def clip_dims(spec: str) -> dict[str, Any]:
    """What the CLIP an experiment names decides (`ParentSizes`), without loading weights."""
    if spec.startswith("open_clip:"):
        return open_clip_dims(spec)
    if _is_experiment(spec):
        model = dataclasses.asdict(load_experiment(spec).config.model)
    else:
        model = artifacts.describe(spec, key=CLIP).config["model"]
    dims = {name: model[name] for name in ("embed_dim", "text_width", "context")}
    return {**dims, "embeddings": model.get("embeddings", UNIT)}


def _is_experiment(spec: str) -> bool:
    return spec.endswith(".yaml") or (spec.startswith(f"{CLIP}/") and not Path(spec).is_dir())


def _codec_shape(spec: str, embed_dim: int) -> tuple[int, int]:
    """Components and buckets of the named PCA (at most D, if an error chooses)."""
    if Path(spec).is_dir():
        codec = Codec.from_tensors(artifacts.describe(spec, key=PCA).weights())
        return codec.k, codec.buckets
    fitted = load_experiment(spec).config.pca
    return fitted.components or embed_dim, fitted.buckets


def build_net(resolved: ResolvedExperiment, sizes: ParentSizes | None = None) -> nn.Module:
    """The network of a stage that trains, on the default device.

    ``sizes`` are those of the named parents if they are not given.

    Raises:
        UserError: the experiment's sizes make no network.
    """
    try:
        return resolved.stage.build_network(resolved.config, sizes or named_sizes(resolved))
    except (ValueError, RuntimeError, ZeroDivisionError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"{resolved.files[0]}: model: cannot be built: {reason}") from None


def count_parameters(resolved: ResolvedExperiment) -> int:
    """Trainable parameters, from a network built on the meta device; 0 of a stage that is fitted.

    Raises:
        UserError: the experiment's sizes make no network.
    """
    if not resolved.stage.trains:
        return 0
    with torch.device("meta"):
        net = build_net(resolved)
    return sum(p.numel() for p in net.parameters())


def frozen_clip(spec: str) -> Clip:
    """The CLIP that an experiment names, on the default device and without its weights."""
    try:
        clip = _open_clip(spec) if spec.startswith("open_clip:") else _own(spec)
    except UserError:
        raise
    except Exception as error:  # some architectures ask a hub for the shape of their text tower
        first = str(error).strip().split("\n")[0]
        raise UserError(f"clip={spec}: cannot be built without its weights: {first}") from None
    return clip.freeze()


def _own(spec: str) -> Clip:
    if _is_experiment(spec):
        return build_clip(load_experiment(spec).config.model)
    artifact = artifacts.expect(artifacts.describe(spec, key=CLIP), (CLIP,), key=CLIP)
    return build_clip(artifact.section("model", ClipConfig))


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
