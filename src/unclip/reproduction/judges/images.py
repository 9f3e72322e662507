"""Starts from images of held-out scenes: variations, interpolations, text diffs, components."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from unclip.common.errors import UserError
from unclip.common.images import Array, to_uint8
from unclip.data.scenes.render import Scene
from unclip.embeddings.geometry import slerp
from unclip.evaluation.figures.drawings import edit_captions
from unclip.evaluation.probes.prompts import held_out_scenes
from unclip.pipeline.manipulations import embed
from unclip.reproduction.judges.judge import Inputs, Measured, images_of, sheet_of
from unclip.reproduction.judges.reading import named, note, prompt_of


def variations(inputs: Inputs) -> Measured:
    """Images from z_i of a scene and new noise, compared with that scene or with another.

    Options: ``of`` (own | other), ``images`` of each scene, ``settings``.
    """
    inputs.check("variations")
    of, each = inputs.options.get("of", "own"), int(inputs.options.get("images", 2))
    scenes = _scenes(inputs)
    wanted = scenes if of == "own" else _following(scenes)
    pipeline = inputs.pipeline()
    sampling = inputs.sampling(pipeline.cascade)
    with torch.no_grad():
        z_i = embed(sampling, images_of(scenes)).repeat_interleave(each, dim=0)
        seeds = [1000 * inputs.seed + k for k in range(len(z_i))]
        found = sampling.decode(z_i, seeds).image
    return _noted(list(to_uint8(found)), wanted, each, [""] * len(scenes))


def edits(inputs: Inputs) -> Measured:
    """Images turned by the part ``theta`` of the way to another colour's caption (figure 5)."""
    inputs.check("edits")
    theta = float(inputs.options.get("theta", 0.4))
    scenes, pipeline = _scenes(inputs), inputs.pipeline()
    settings = inputs.settings().unguided()
    images, wanted, labels = [], [], []
    for scene, image in zip(scenes, images_of(scenes)):
        source, target = edit_captions(scene)
        found = pipeline.text_diff(
            [image], source, target, theta, 2, seed=inputs.seed, settings=settings
        )
        images.append(to_uint8(found.image[0])[-1])
        labels.append(f"{source} to {target}")
        _, colour, _ = target.split()  # a red circle
        wanted.append(replace(scene, items=(replace(scene.items[0], colour=colour),)))
    return _noted(images, wanted, 1, labels)


def components(inputs: Inputs) -> Measured:
    """Images from the first ``share`` of the principal components of z_i (figure 7)."""
    inputs.check("components")
    scenes, pipeline = _scenes(inputs), inputs.pipeline()
    codec = pipeline.cascade.codec
    if codec is None:
        raise UserError("the arm has no PCA")
    k = max(1, round(float(inputs.options.get("share", 1.0)) * codec.k))
    found = pipeline.pca_reconstructions(
        images_of(scenes), [k], seed=inputs.seed, settings=inputs.settings()
    )
    return _noted(list(to_uint8(found.image[:, 0])), scenes, 1, [f"{k} components"] * len(scenes))


def interpolations(inputs: Inputs) -> Measured:
    """Images ``at`` a part of the way from z_i of a scene to that of the next (figure 4).

    Compared with the next scene. The noise of a pair is the same all the way, as in the figure.
    """
    inputs.check("interpolations")
    at = float(inputs.options.get("at", 0.5))
    scenes, sampling = _scenes(inputs), inputs.sampling(inputs.cascade())
    with torch.no_grad():
        z_i = embed(sampling, images_of(scenes))
        seeds = [1000 * inputs.seed + k for k in range(len(scenes))]
        found = sampling.decode(slerp(z_i, z_i.roll(-1, dims=0), at), seeds).image
    return _noted(list(to_uint8(found)), _following(scenes), 1, [f"at {at:g}"] * len(scenes))


def _following(scenes: list[Scene]) -> list[Scene]:
    return [*scenes[1:], scenes[0]]


def _scenes(inputs: Inputs) -> list[Scene]:
    return held_out_scenes(inputs.n, inputs.seed, inputs.scenes_config())


def _noted(images: list[Array], wanted: list[Scene], each: int, labels: list[str]) -> Measured:
    records: list[dict[str, Any]] = []
    for k, scene in enumerate(wanted):
        own = images[k * each : (k + 1) * each]
        records.append({"images": [note(image, prompt_of(scene)) for image in own]})
    titles = [
        f"{'right' if image['right'] else 'wrong'}: {named(scene)} {label}".strip()
        for record, scene, label in zip(records, wanted, labels)
        for image in record["images"]
    ]
    return Measured(records, sheet_of(images, titles))
