"""Figures 3 to 9, 14 and 15 of the paper (arXiv 2204.06125): what they show, what draws them."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from unclip.evaluation.figures.drawings import (
    FigureInputs,
    components,
    edit_captions,
    guidance,
    interpolations,
    prompt_of,
    rebuilt,
    signals,
    stacked,
    text_diffs,
    typographic,
    variations,
)
from unclip.evaluation.probes.probe import Probe
from unclip.evaluation.probes.prompts import stacked_prompts

FROM_IMAGES = ("prior", "decoder.sampler", "decoder.eta")
"""What does not apply where images are inverted: there is no prior, and DDIM draws."""


@dataclass(frozen=True)
class Figure:
    """A figure of the paper and its counterpart here."""

    number: int
    title: str
    shows: str  # in the paper
    look: str  # for what, in the counterpart
    command: str  # that draws it alone, to be filled in by `fields`; some have none
    draw: Callable[[FigureInputs], Probe]
    without: tuple[str, ...] = ()  # stages and settings that it does not use
    every_prior: bool = False  # whether it draws from the autoregressive prior as well


def fields(studio: FigureInputs, files: Sequence[Path]) -> dict[str, str]:
    """What the commands of `FIGURES` speak of, quoted for a shell; ``files`` are the images'."""
    paths = [shlex.quote(str(file)) for file in files]
    source, target = edit_captions(studio.scenes[0]) if studio.scenes else ("FROM", "TO")
    texts = {
        "source": source,
        "target": target,
        "prompt": prompt_of(studio).caption,
        "stacked": stacked_prompts(1, studio.shapes)[0].caption,
    }
    quoted = {name: shlex.quote(text) for name, text in texts.items()}
    pair = " ".join(paths[:2])
    return {**quoted, "first": paths[0], "pair": pair, "all": " ".join(paths)}


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
        variations,
        FROM_IMAGES,
    ),
    Figure(
        4,
        "Interpolations",
        "Ways from one image to another by spherical interpolation of z_i, the decoder's noise "
        "fixed along each row.",
        "One object should turn into the other by steps. With x_T slerp the ends are the "
        "images, as well as the inversion goes; with fixed noise only z_i moves.",
        "unclip interpolate {pair} --n 7 --noise slerp {common}",
        interpolations,
        FROM_IMAGES,
    ),
    Figure(
        5,
        "Text diffs",
        "Images changed by the difference of two captions: z_i turned towards it step by step, "
        "the noise from the inversion kept.",
        "The colour should turn into the second caption's, while shape, place and background "
        "stay. At theta 0 stands the reconstruction.",
        "unclip edit {first} --from {source} --to {target} --theta 0.4 --n 5 {common}",
        text_diffs,
        FROM_IMAGES,
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
        typographic,
        FROM_IMAGES,
    ),
    Figure(
        7,
        "Principal components",
        "Images decoded from the first 20 to 320 of 1024 principal components of z_i on one "
        "seed, the source at the far right: coarse meaning first, details of form later.",
        "From left to right: what comes first, background, colour, place or shape, and from how "
        "many components on the image is that of the whole z_i.",
        "unclip probe pca {all} {common}",
        components,
        FROM_IMAGES,
    ),
    Figure(
        8,
        "Conditioning signals",
        "One decoder given the caption alone (z_i zero), the caption and z_t in place of "
        "z_i, or the caption and a prior's z_i. z_t gives fair images, a prior's z_i the best. "
        "There the prior is the autoregressive one.",
        "How much of each caption every way gets right, counted in the table.",
        "unclip probe conditioning --n 8 {common}",
        signals,
        every_prior=True,
    ),
    Figure(
        9,
        "Guidance",
        "One caption at growing guidance scales, for unCLIP with the prior's z_i fixed and for "
        "GLIDE, a seed per column. unCLIP's images become better and keep their content; "
        "GLIDE's converge to one camera angle, colour and size.",
        "Down a column the content should stay and edges sharpen. The GLIDE half needs a decoder "
        "without z_i: give one to `unclip probe guidance --decoder`.",
        "unclip probe guidance {prompt} --n 8 {common}",
        guidance,
        ("decoder.guidance",),
    ),
    Figure(
        14,
        "Attribute binding",
        'Samples for "a red cube on top of a blue cube": unCLIP confuses which cube has which '
        "colour more often than GLIDE does.",
        "How many images show both objects with the colours in their places; the oracle's "
        "verdict stands under each. The counted tests are `unclip probe binding` and `unclip "
        "probe relations`.",
        "unclip sample {stacked} --n 16 {common}",
        stacked,
    ),
    Figure(
        15,
        "Reconstructions of two objects",
        "What explains figure 14: images of two objects, encoded by CLIP and decoded, come back "
        "with colours or sizes mixed up. z_i itself does not bind them.",
        "Whether the two colours stay on their own shapes; the table counts them.",
        "",
        rebuilt,
        ("prior",),
    ),
)
