"""The paper's figures 3 to 9, 14 and 15 (arXiv 2204.06125), drawn with a trained cascade."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from data_modules.scene_captions import noun
from data_modules.scene_render import COLOURS, Scene
from data_modules.scenes import Prompt, single_object_prompts
from unclip.evaluation.probing.conditioning import probe_conditioning
from unclip.evaluation.probing.guidance import probe_guidance
from unclip.evaluation.probing.latents import originals, probe_pca, probe_typographic
from unclip.evaluation.probing.pairs import binding_outcomes, binding_records, probe_pairs
from unclip.evaluation.probing.probe import Probe
from unclip.evaluation.probing.prompts import (
    attack,
    binding_prompts,
    pictures_of,
    stacked_prompts,
)
from unclip.figures import Array, table, to_uint8
from unclip.pipeline.manipulations import Latents, embed
from unclip.pipeline.parts import Part
from unclip.pipeline.pipeline import Pipeline
from unclip.pipeline.sampling import Generated, Sampling
from unclip.pipeline.settings import Settings
from unclip.types import Progress, UserError

VARIATIONS, WAY, THETAS, THETA_MAX, CAPTIONS, SCALES = 6, 7, 5, 0.4, 8, (1.0, 2.0, 3.0, 4.0)


@dataclass(frozen=True)
class Studio:
    """A cascade, and what it draws from.

    ``scenes`` are those of ``pictures``; none if the pictures are somebody's own.
    """

    pipeline: Pipeline
    pictures: list[Array]
    scenes: list[Scene]
    shapes: Sequence[str]  # of the scenes the cascade was trained on
    ar_prior: Part | None = None
    seed: int = 0
    settings: Settings | None = None
    progress: Progress | None = None

    @cached_property
    def latents(self) -> Latents:
        """Of ``pictures``, inverted once for all figures."""
        return self.pipeline.encode(self.pictures, **self.how)

    def seeds(self, n: int) -> list[int]:
        """``n`` seeds from ``seed`` on."""
        return [self.seed + k for k in range(n)]

    @property
    def how(self) -> dict[str, Any]:
        """What every drawing is told."""
        return {"settings": self.settings, "progress": self.progress}


@dataclass(frozen=True)
class Figure:
    """A figure of the paper and its counterpart here."""

    number: int
    title: str
    shows: str  # in the paper
    look: str  # for what, in the counterpart
    command: str  # that draws it alone, to be filled in by `fields`; some have none
    draw: Callable[[Studio], Probe]


def fields(studio: Studio, files: Sequence[Path], common: str) -> dict[str, str]:
    """What the commands of `FIGURES` speak of, quoted for a shell.

    ``files`` are those of the pictures, ``common`` the options of all commands.
    """
    paths = [shlex.quote(str(file)) for file in files]
    source, target = edit_captions(studio.scenes[0]) if studio.scenes else ("FROM", "TO")
    texts = {
        "source": source,
        "target": target,
        "prompt": _prompt(studio).caption,
        "stacked": stacked_prompts(1, studio.shapes)[0].caption,
    }
    quoted = {name: shlex.quote(text) for name, text in texts.items()}
    pair = " ".join(paths[:2])
    return {**quoted, "first": paths[0], "pair": pair, "all": " ".join(paths), "common": common}


def _variations(studio: Studio) -> Probe:
    seeds = studio.seeds(VARIATIONS)
    found = studio.pipeline.vary(studio.latents, 1.0, seeds, **studio.how)
    return _beside(studio.pictures, found, [f"seed {seed}" for seed in seeds])


def _interpolations(studio: Studio) -> Probe:
    pairs = [(k, k + 1) for k in range(0, min(4, len(studio.pictures)) - 1, 2)]
    if not pairs:
        raise UserError("--images: an interpolation needs two")
    first, second = (Latents(*(part[list(end)] for part in studio.latents)) for end in zip(*pairs))
    cells, rows = [], []
    for noise in ("slerp", "fixed"):
        found = studio.pipeline.interpolate(
            first, second, WAY, noise=noise, seed=studio.seed, **studio.how
        )
        for pair, drawn in zip(pairs, to_uint8(found.image)):
            a, b = originals([studio.pictures[k] for k in pair], len(drawn[0]))
            cells.append([a, *drawn, b])
            rows.append(f"x_T {noise}" + (f" (seed {studio.seed})" if noise == "fixed" else ""))
    columns = ["from", *(f"{k / (WAY - 1):.2f}" for k in range(WAY)), "to"]
    return Probe(table(cells, rows=rows, columns=columns), [])


def _text_diffs(studio: Studio) -> Probe:
    rows, cells = [], []
    for k, scene in enumerate(_own(studio, "unclip edit")):
        source, target = edit_captions(scene)
        one = Latents(*(part[k : k + 1] for part in studio.latents))
        found = studio.pipeline.text_diff(
            one, source, target, THETA_MAX, THETAS, seed=studio.seed, **studio.how
        )
        drawn = to_uint8(found.image[0])
        cells.append([*originals([studio.pictures[k]], len(drawn[0])), *drawn])
        rows.append(f"{source} to {target}")
    columns = ["original", *(f"theta {THETA_MAX * k / (THETAS - 1):.2f}" for k in range(THETAS))]
    return Probe(table(cells, rows=rows, columns=columns), [])


def edit_captions(scene: Scene) -> tuple[str, str]:
    """What a scene of one object shows, and the same in the next colour that it can have."""
    (item,) = scene.items
    colours = [c for c in COLOURS if c != scene.background]
    following = colours[(colours.index(item.colour) + 5) % len(colours)]
    return noun(item), noun(replace(item, colour=following))


def _typographic(studio: Studio) -> Probe:
    scene, words, labels = attack(_own(studio, "unclip probe typographic")[0], studio.shapes)
    (picture,) = pictures_of([scene])
    return probe_typographic(
        studio.pipeline, picture, words, labels, seeds=studio.seeds(4), **studio.how
    )


def _own(studio: Studio, command: str) -> list[Scene]:
    if not studio.scenes:
        raise UserError(f"captions of --images are not known; use `{command}`")
    return studio.scenes


def _components(studio: Studio) -> Probe:
    return probe_pca(studio.pipeline, studio.pictures, seed=studio.seed, **studio.how)


def _signals(studio: Studio) -> Probe:
    prompts = single_object_prompts(CAPTIONS, studio.seed, studio.shapes)
    return probe_conditioning(
        studio.pipeline,
        [prompt.caption for prompt in prompts],
        studio.seeds(CAPTIONS),
        scenes=[prompt.scene for prompt in prompts],
        ar_prior=studio.ar_prior,
        **studio.how,
    )


def _guidance(studio: Studio) -> Probe:
    prompt = _prompt(studio)
    return probe_guidance(
        studio.pipeline,
        [prompt.caption] * CAPTIONS,
        studio.seeds(CAPTIONS),
        decoder_scales=SCALES,
        scenes=[prompt.scene] * CAPTIONS,
        **studio.how,
    )


def _prompt(studio: Studio) -> Prompt:
    return single_object_prompts(1, studio.seed, studio.shapes)[0]


def _stacked(studio: Studio) -> Probe:
    prompts = stacked_prompts(16, studio.shapes)
    return probe_pairs(studio.pipeline, prompts, studio.seeds(16), studio.shapes, **studio.how)


@torch.no_grad()
def _rebuilt(studio: Studio) -> Probe:
    prompts = binding_prompts(4, studio.seed, studio.shapes)
    pictures = pictures_of([prompt.scene for prompt in prompts])
    sampling = Sampling(studio.pipeline, studio.settings, studio.progress)
    seeds = studio.seeds(VARIATIONS)
    sampling.expect(decodings=len(pictures) * len(seeds))
    z_i = embed(sampling, pictures).repeat_interleave(len(seeds), dim=0)
    found = sampling.decode(z_i, seeds * len(pictures))
    repeated = [prompt for prompt in prompts for _ in seeds]
    outcomes = binding_outcomes(repeated, list(to_uint8(found.image)))
    records = binding_records(repeated, outcomes, studio.shapes)
    sheet = _beside(pictures, found.grouped(len(seeds)), [f"seed {seed}" for seed in seeds]).sheet
    return Probe(sheet, records)


def _beside(pictures: Sequence[Array], found: Generated, columns: Sequence[str]) -> Probe:
    """Pictures, each with those ``[B, n, ...]`` that came of it."""
    drawn = to_uint8(found.image)
    left = originals(pictures, drawn.shape[-2])
    cells = [[picture, *row] for picture, row in zip(left, drawn)]
    return Probe(table(cells, rows=[""] * len(cells), columns=["original", *columns]), [])


FIGURES = (
    Figure(
        3,
        "Variations",
        "Variations of a painting and of a logo, encoded by CLIP and decoded by diffusion. The "
        "clock in the painting and the strokes of the logo stay, and so does the style; details "
        "change.",
        "Each row should keep the object's shape, colour and place, and the background. What "
        "differs between the variations is what z_i does not say.",
        "unclip vary {all} --eta 1 --n 6 {common}",
        _variations,
    ),
    Figure(
        4,
        "Interpolations",
        "Ways from one image to another by spherical interpolation of z_i, the decoder's noise "
        "fixed along each row.",
        "One object should turn into the other by steps. With x_T slerp the ends are the "
        "pictures, as well as the inversion goes; with fixed noise only z_i moves.",
        "unclip interpolate {pair} --n 7 --noise slerp {common}",
        _interpolations,
    ),
    Figure(
        5,
        "Text diffs",
        "Images changed by the difference of two captions: z_i turned towards it step by step, "
        "the noise from the inversion kept.",
        "The colour should turn into the second caption's, while shape, place and background "
        "stay. At theta 0 stands the reconstruction.",
        "unclip edit {first} --from {source} --to {target} --theta 0.4 --n 5 {common}",
        _text_diffs,
    ),
    Figure(
        6,
        "Typographic attacks",
        "An apple with the words iPod or pizza on it, CLIP's probabilities of three labels, and "
        "variations. CLIP is fooled; the decoder mostly draws apples all the same.",
        "The probabilities at each row, with and without the word, and whether the variations "
        "keep the object that CLIP no longer names. A CLIP that has never seen printed words "
        "cannot read them: to it the note is a stain.",
        "unclip probe typographic {common}",
        _typographic,
    ),
    Figure(
        7,
        "Principal components",
        "Images decoded from the first 20 to 320 of 1024 principal components of z_i on one "
        "seed, the source at the far right: coarse meaning first, details of form later.",
        "From left to right: what comes first, background, colour, place or shape, and from how "
        "many components on the picture is that of the whole z_i.",
        "unclip probe pca {all} {common}",
        _components,
    ),
    Figure(
        8,
        "Conditioning signals",
        "One decoder given the caption alone (z_i zero), the caption and z_t in the place of "
        "z_i, or the caption and a prior's z_i. z_t gives fair pictures, a prior's z_i the best. "
        "There the prior is the autoregressive one.",
        "How much of each caption every way gets right, counted in the table.",
        "unclip probe conditioning --n 8 {common}",
        _signals,
    ),
    Figure(
        9,
        "Guidance",
        "One caption at growing guidance scales, for unCLIP with the prior's z_i fixed and for "
        "GLIDE, a seed per column. unCLIP's pictures become better and keep their content; "
        "GLIDE's converge to one camera angle, colour and size.",
        "Down a column the content should stay and edges sharpen. The GLIDE half needs a decoder "
        "without z_i: give one to `unclip probe guidance --decoder`.",
        "unclip probe guidance {prompt} --n 8 {common}",
        _guidance,
    ),
    Figure(
        14,
        "Attribute binding",
        'Samples for "a red cube on top of a blue cube": unCLIP confuses which cube has which '
        "colour more often than GLIDE does.",
        "How many pictures show both objects with the colours in their places; the oracle's "
        "verdict stands under each. The counted tests are `unclip probe binding` and `unclip "
        "probe relations`.",
        "unclip sample {stacked} --n 16 {common}",
        _stacked,
    ),
    Figure(
        15,
        "Reconstructions of two objects",
        "What explains figure 14: pictures of two objects, encoded by CLIP and decoded, come back "
        "with colours or sizes mixed up. z_i itself does not bind them.",
        "Whether the two colours stay on their own shapes; the table counts them.",
        "",
        _rebuilt,
    ),
)
