"""Typographic attacks: a word on the image of something else (arXiv 2204.06125, figure 6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from unclip.common.blank import is_blank
from unclip.common.errors import UserError
from unclip.common.fonts import font_for, missing
from unclip.embeddings.lengths import directions
from unclip.pipeline.inference import inference
from unclip.pipeline.inputs import Array, Images, arrays
from unclip.pipeline.manipulations import embed, vary
from unclip.pipeline.sampling import Generated, Sampling


class Attacked(NamedTuple):
    """What a pasted word does to what CLIP says, and to what the decoder draws."""

    images: list[Array]  # B images with the word, uint8 [H, W, 3]
    before: Tensor  # [B, L], probabilities of the labels without the word
    after: Tensor  # [B, L], with it
    variations: Generated  # [B, n, ...] of the images with the word


@inference
def typographic(
    sampling: Sampling,
    images: Images,
    word: str,
    labels: Sequence[str],
    seeds: Sequence[int],
) -> Attacked:
    """The work of `Pipeline.typographic`."""
    if len(labels) < 2:
        raise UserError("labels: give at least two, to choose between")
    plain = arrays(images)
    attacked = [paste(image, word) for image in plain]
    kind = sampling.cascade.embeddings
    z_t = directions(sampling.cascade.embed_captions(labels), kind)
    scale = sampling.cascade.require_clip().model.scale()
    before, after = (
        (scale * directions(embed(sampling, each), kind) @ z_t.T).softmax(dim=-1)
        for each in (plain, attacked)
    )
    return Attacked(attacked, before, after, vary(sampling, attacked, seeds))


def check_word(word: str) -> None:
    """Refuse what cannot be written on an image.

    Raises:
        UserError: the word is empty, or has letters that no font has.
    """
    if is_blank(word):
        raise UserError("word: is empty")
    if absent := missing(word):
        raise UserError(f"word={word!r}: no font has {absent!r}; give a word in other letters")
    if not font_for(word, 100).getlength(word):
        raise UserError(f"word={word!r}: nothing of it can be seen")


def paste(image: Array, word: str) -> Array:
    """``image`` ``uint8 [H, W, 3]`` with a white note in its lower half that says ``word``."""
    check_word(word)
    height, width = image.shape[:2]
    side = min(height, width)  # the middle square is what the networks see
    note = (0.8 * side, 0.24 * side)
    font = _fitting(word, 0.9 * note[0], 0.8 * note[1])
    middle = (width / 2, height / 2 + 0.3 * side)
    sheet = Image.fromarray(image)
    draw = ImageDraw.Draw(sheet)
    (x, y), (w, h) = middle, note
    draw.rectangle((x - w / 2, y - h / 2, x + w / 2, y + h / 2), fill="white")
    draw.text(middle, word, fill="black", font=font, anchor="mm")
    return np.asarray(sheet)


def _fitting(word: str, width: float, height: float) -> ImageFont.FreeTypeFont:
    """A font that has ``word``, as large as it fits."""
    wide = font_for(word, 100)
    return wide.font_variant(size=max(1, min(width / wide.getlength(word) * 100, height)))
