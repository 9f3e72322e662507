"""The protocols of `unclip evaluate cascade`: which captions are drawn, against which images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal

from unclip.common import artifacts
from unclip.common.counted import counted
from unclip.common.errors import UserError
from unclip.common.seeding import derive_seed
from unclip.data import files
from unclip.data.config import ReadingConfig
from unclip.data.decode import decode_captions, parse_json
from unclip.data.readers.captions import (
    Caption,
    choose_captions,
    name_captions,
    number_captions,
    read_captions,
)
from unclip.data.readers.coco import CocoSource, identity_of
from unclip.data.readers.source import raw_of
from unclip.data.scenes.dataset import Prompt, single_object_prompts
from unclip.data.sources import open_source
from unclip.evaluation.features.images import ImageSet, of_scenes, of_source
from unclip.stages.decoder.config import DecoderExperiment

CaptionsOf = Literal["all", "images"]
ReferenceOf = Literal["all", "matched"]
READINGS = {"all": "of all captions", "images": "one caption each of as many images"}


@dataclass(frozen=True)
class Protocol:
    """What is drawn and what it is compared with.

    Attributes:
        name: `coco30k`, `scenes` or `cifar`.
        captions: To be drawn, in this order: image k has the seed of the sampling + k.
        reference: The real images, for samples of so many pixels a side.
        size: Pixels a side that both sets are brought to; None takes the samples as they are.
        chosen: Which captions these are, in words.
        compared: Which images the reference are, in words.
        prompts: Of scenes, for the oracle.
    """

    name: str
    captions: list[Caption]
    reference: Callable[[int], ImageSet]
    size: int | None
    chosen: str
    compared: str
    prompts: tuple[Prompt, ...] = ()


def coco30k(
    annotations: Path,
    images: Path,
    *,
    n: int = 30_000,
    captions_of: CaptionsOf = "all",
    reference_of: ReferenceOf = "all",
    size: int = 256,
) -> Protocol:
    """``n`` captions of MS-COCO's form and its images (arXiv 2204.06125, table 2).

    The paper does not say which reading of "30,000 captions" it took, nor whether the reference
    are all images. Of all captions the choice is that of `unclip sample --captions --limit n`.

    Raises:
        UserError: a file is missing or of another form, or has fewer captions.
    """
    captions = read_captions(annotations, option="--annotations")
    source = _coco(annotations, images)
    owner = _owners(annotations, captions)
    if captions_of == "all":
        chosen = choose_captions(captions, n)
    else:
        chosen = [captions[k] for k in _one_each(owner, n)]
    if reference_of == "all":
        kept: Sequence[int] = range(len(source))
    else:
        number = {caption.key: k for k, caption in zip(owner, captions)}
        kept = sorted({number[one.key] for one in chosen})
    real = of_source(source, str(images), "--images", size).only(kept)
    return Protocol(
        name="coco30k",
        captions=chosen,
        reference=lambda _: real,
        size=size,
        chosen=f"{len(chosen):,} {READINGS[captions_of]} ({len(captions):,})",
        compared=_compared(reference_of, len(kept), len(source)),
    )


def captioned(
    spec: str,
    *,
    n: int | None = None,
    captions_of: CaptionsOf = "images",
    reference_of: ReferenceOf = "all",
    size: int = 32,
) -> Protocol:
    """Captions of a set of captioned images (any `data.source`), and these images: `cifar`.

    Raises:
        UserError: it cannot be read, or has fewer captions.
    """
    try:
        config = ReadingConfig(source=spec)
        source = open_source(spec, config, image_size=size, split="all")
        texts: list[list[str]] = []
        for index in range(len(source)):
            raw = raw_of(source, index)
            said = raw and decode_captions(raw.captions, where=raw.where)
            texts.append(said or source[index].captions)
    except UserError as error:
        raise UserError(f"--images: {str(error).removeprefix('data.source: ')}") from None
    owner = [index for index, said in enumerate(texts) for _ in said]
    keys = [f"{source.key(i)}-{k}" for i, said in enumerate(texts) for k in range(len(said))]
    captions = name_captions(keys, [text for said in texts for text in said])
    if captions_of == "all":
        place = {one.key: k for k, one in enumerate(captions)}
        numbers = [place[one.key] for one in choose_captions(captions, n)]
    else:
        numbers = _one_each(owner, n)
    kept: Sequence[int] = range(len(source))
    if reference_of == "matched":
        kept = sorted({owner[k] for k in numbers})
    real = of_source(source, spec, "--images", size).only(kept)
    return Protocol(
        name="cifar",
        captions=[captions[k] for k in numbers],
        reference=lambda _: real,
        size=size,
        chosen=f"{len(numbers):,} {READINGS[captions_of]} ({len(captions):,})",
        compared=_compared(reference_of, len(kept), len(source)),
    )


def scenes(cascade: Path, *, n: int = 1000) -> Protocol:
    """Captions of one object and the scenes they describe, with the shapes it was trained on.

    Raises:
        UserError: the cascade was not trained on scenes.
    """
    decoder = artifacts.describe(cascade / "decoder", key="decoder")
    trained_on = decoder.stored(DecoderExperiment).data
    if trained_on.source != "scenes":
        raise UserError(
            f"{cascade}: was trained on {trained_on.source}, --protocol scenes has scenes alone"
        )
    prompts = tuple(single_object_prompts(n, 0, trained_on.scenes.shapes))
    return Protocol(
        name="scenes",
        captions=number_captions([prompt.caption for prompt in prompts]),
        reference=lambda side: of_scenes([p.scene for p in prompts], "--protocol", side),
        size=None,
        chosen=f"{n:,} of one object",
        compared="the scenes that they describe",
        prompts=prompts,
    )


def _compared(reference_of: ReferenceOf, kept: int, total: int) -> str:
    if kept < 2:
        raise UserError(f"--images: {counted(kept, 'image')} to compare with; needs 2 or more")
    if reference_of == "all":
        return f"all {counted(total, 'image')}"
    return f"the {counted(kept, 'image')} of these captions, of {total:,}"


def _coco(annotations: Path, images: Path) -> CocoSource:
    """The images with captions, all of which are there.

    Raises:
        UserError: they are not.
    """
    if not images.is_dir():
        raise UserError(f"--images {images}: no such folder")
    try:
        source = CocoSource(annotations, str(images))
    except UserError as error:
        raise UserError(f"--annotations: {str(error).removeprefix('data.source: ')}") from None
    there = {file.name for file in files.walk(str(images))}
    lacking = [name for name in source.names() if name not in there]
    if lacking:
        raise UserError(
            f"--images {images}: {len(lacking):,} of {counted(len(source), 'image')} of "
            f"{annotations} are not there, as {lacking[0]}"
        )
    return source


def _owners(annotations: Path, captions: Sequence[Caption]) -> list[int]:
    """For each caption the number of its image among those that have captions."""
    where = f"--annotations {annotations}"
    content: Any = parse_json(annotations.read_bytes())
    of = [identity_of(one, "image_id", where) for one in content["annotations"]]
    names = {identity_of(one, "id", where): one["file_name"] for one in content["images"]}
    used = set(of)
    listed = dict.fromkeys(name for identity, name in names.items() if identity in used)
    number = {name: k for k, name in enumerate(listed)}
    try:
        owner = [number[names[identity]] for identity in of]
    except KeyError as error:
        raise UserError(f"{where}: has no image {error}, of which there is a caption") from None
    if len(owner) != len(captions):
        raise UserError(f"{where}: an annotation has several captions; give each its own")
    return owner


def _one_each(owner: Sequence[int], n: int | None) -> list[int]:
    """The number of a caption each of ``n`` images, drawn at random; in their order."""
    of: dict[int, list[int]] = {}
    for caption, image in enumerate(owner):
        of.setdefault(image, []).append(caption)
    n = len(of) if n is None else n
    if n > len(of):
        raise UserError(f"--limit {n:,}: is more than {counted(len(of), 'image')} with captions")
    dice = Random(derive_seed("a caption each", len(of), n))
    return sorted(dice.choice(of[image]) for image in sorted(dice.sample(sorted(of), n)))
