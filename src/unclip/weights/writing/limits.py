"""What the classes of diffusers' unCLIP pipelines cannot hold of a stage, by the key in its way."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from unclip.common.artifacts import Artifact
from unclip.common.errors import UserError
from unclip.stages.diffusion_prior.config import DiffusionPriorExperiment
from unclip.stages.registry import STAGES
from unclip.stages.row import CLIP, DECODER, PRIOR, UPSAMPLER


class Limit(NamedTuple):
    """A key that has to have one of a few values."""

    key: str
    allowed: tuple[Any, ...]
    why: str


RAW = Limit("model.embeddings", ("raw",), "diffusers takes CLIP's projections as they are")
NULL = Limit("model.null_text", ("caption",), "diffusers drops a caption by the empty one")
WORDS = Limit("model.caption", ("clip",), "diffusers' networks read CLIP's token features")
CHAIN = (
    Limit("diffusion.schedule", ("cosine",), "UnCLIPScheduler has no other"),
    Limit("diffusion.prediction", ("x0", "eps"), "UnCLIPScheduler knows no other"),
    Limit("sampler.clip", ("static", "none"), "UnCLIPScheduler clamps to a fixed range"),
)
PLAIN_INPUT = Limit("model.inpaint", (False,), "diffusers' pipelines tell no network what is known")
LIMITS: dict[str, tuple[Limit, ...]] = {
    CLIP: (
        RAW,
        Limit("model.vision", ("vit", "none"), "transformers' CLIP has no other image encoder"),
    ),
    PRIOR: (
        RAW,
        WORDS,
        NULL,
        *CHAIN,
        Limit("diffusion.variance", ("fixed_small",), "UnCLIPScheduler has no other for a prior"),
    ),
    DECODER: (
        Limit("model.use_z_i", (True,), "UnCLIPTextProjModel needs image embeddings"),
        RAW,
        Limit("model.use_caption", (True,), "UnCLIPTextProjModel needs captions"),
        WORDS,
        NULL,
        PLAIN_INPUT,
        Limit("embedding", ("image",), "diffusers' pipelines give the decoder z_i"),
        *CHAIN,
        Limit("diffusion.variance", ("learned_range",), "diffusers' pipelines split it off"),
    ),
    UPSAMPLER: (
        Limit("model.use_caption", (False,), "UNet2DModel reads no captions"),
        PLAIN_INPUT,
        Limit("model.noise_levels", (0,), "UNet2DModel is told no level of noise"),
        Limit("model.enlarge", ("bicubic",), "diffusers' pipelines enlarge bicubically"),
        Limit("model.low_8_bit", (False,), "diffusers' pipelines do not round the small image"),
        Limit("model.unet.attention", ([],), "its layers are none of UNet2DModel's"),
        *CHAIN,
        Limit(
            "diffusion.variance", ("fixed_small", "learned_range"), "UnCLIPScheduler has no other"
        ),
    ),
}
_PRIOR = next(n for n, row in STAGES.items() if row.experiment is DiffusionPriorExperiment)
NETWORKS = {CLIP: CLIP, PRIOR: _PRIOR, DECODER: DECODER, UPSAMPLER: UPSAMPLER}
"""The stage of a kind whose network diffusers has."""
HELD = ("steps", "guidance", "clip", "clip_range", "eta")
"""Settings of a sampler that diffusers' pipelines are told, or that have no effect there."""


def check_stage(kind: str, artifact: Artifact) -> None:
    """Refuse a stage of a network that diffusers has not.

    Raises:
        UserError: it names the key ``stage``.
    """
    if artifact.stage != NETWORKS[kind]:
        raise refusal(
            artifact,
            "stage",
            artifact.stage,
            "diffusers has no such network",
            (NETWORKS[kind],),
        )


def check(kind: str, artifact: Artifact, experiment: Any) -> None:
    """Refuse a stage of which diffusers' classes cannot hold a value.

    Raises:
        UserError: it names the file and the key.
    """
    for key, allowed, why in LIMITS[kind]:
        value = _value(experiment, key)
        if value not in allowed:
            raise refusal(artifact, key, value, why, allowed)
    if kind in (DECODER, UPSAMPLER):
        unet = experiment.model.unet
        if unet.multiples[0] != 1:
            why = "diffusers embeds the timestep in as many numbers as its first level has channels"
            fit = ("multiples that begin with 1",)
            raise refusal(artifact, "model.unet.multiples", unet.multiples, why, fit)
    if kind == DECODER and not unet.attention:
        why = "UNet2DConditionModel attends in its middle block"
        raise refusal(artifact, "model.unet.attention", [], why, ("one or more sides",))


def refusal(
    artifact: Artifact, key: str, value: Any, why: str, allowed: tuple[Any, ...]
) -> UserError:
    """What to raise for a value of a stage."""
    fit = " or ".join(_shown(each) for each in allowed)
    return UserError(
        f"{artifact.path / 'config.yaml'}: {key}={_shown(value)}: {why}; only {fit} can be exported"
    )


def _value(experiment: Any, key: str) -> Any:
    for name in key.split("."):
        experiment = getattr(experiment, name)
    return experiment


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def unheld(experiments: Mapping[str, Any]) -> list[str]:
    """Settings of the samplers that are neither in diffusers' files nor arguments of its calls.

    Such a cascade computes the same there, but is sampled in another way.
    """
    found = []
    for kind, experiment in experiments.items():
        if not hasattr(experiment, "sampler"):
            continue
        own = dataclasses.asdict(experiment.sampler)
        there = dataclasses.asdict(type(experiment.sampler)()) | {"sampler": "ddpm"}
        there |= {"candidates": 1} | {name: own.get(name) for name in HELD}
        if not str(own["steps"]).isdigit():  # sections, or spaced in another way
            there["steps"] = "a number"
        found += [f"{kind}.{name}={_shown(v)}" for name, v in own.items() if v != there[name]]
    return found
