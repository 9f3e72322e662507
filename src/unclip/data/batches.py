"""The batches of each stage, as its data module makes them and its loss takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unclip.common.errors import UserError
from unclip.data.dataset import Example


def brought_z_i(examples: Sequence[Example]) -> Tensor | None:
    """z_i ``[B, D]`` that samples bring, NaN where one brings none; None where none does.

    Raises:
        UserError: They are of different lengths.
    """
    lengths = {len(each.z_i): each.key for each in examples if each.z_i is not None}
    if not lengths:
        return None
    if len(lengths) > 1:
        (one, key), (other, another), *_ = lengths.items()
        raise UserError(
            f"data.source: {key}: its z_i has {one} numbers, that of {another} {other}; leave out "
            "the images of another cascade"
        )
    found = np.full((len(examples), *lengths), np.nan, np.float32)
    for row, each in zip(found, examples):
        if each.z_i is not None:
            row[:] = each.z_i
    return torch.from_numpy(found)


class ClipBatch(NamedTuple):
    """Images with their captions, for CLIP."""

    image: Tensor  # [B, 3, S, S] in [-1, 1]
    tokens: Tensor  # [B, L]
    captions: list[str]
    keys: list[str]


class Encoded(NamedTuple):
    """What the frozen CLIP has said of a batch already; None of what nobody reads."""

    z_i: Tensor | None  # [B, D]
    z_t: Tensor | None  # [B, D]
    features: Tensor | None  # [B, L, W], of the captions


class PriorBatch(NamedTuple):
    """What the prior's stage needs to have (z_i, z_t, caption) triples by the frozen CLIP."""

    clip_image: Tensor | None  # [B, 3, S, S] in [-1, 1], at the CLIP's own size; None with z_i
    clip_tokens: Tensor | None  # [B, L]; None where captions play no part
    tokens: Tensor | None  # [B, L'] for the prior's own caption encoder; None likewise
    captions: list[str]  # none where z_i come from disk and are not to be looked at
    keys: list[str]
    z_i: Tensor | None = None  # [B, D] as stored: float16 or float32, perhaps not normalised
    z_t: Tensor | None = None  # the same
    encoded: Encoded | None = None
    brought: Tensor | None = None  # z_i [B, D] of samples that bring their own, NaN of the others


class DecoderBatch(NamedTuple):
    """Images at the decoder's size, what the CLIP says or is to say of them, and caption tokens."""

    image: Tensor  # [B, 3, H, W] in [-1, 1]
    clip_image: Tensor | None  # [B, 3, S, S] in [-1, 1], at the CLIP's own size; None with z_i
    clip_tokens: Tensor  # [B, L]
    tokens: Tensor  # [B, L'] for the decoder's own caption encoder
    captions: list[str]
    keys: list[str]
    z_i: Tensor | None = None  # [B, D] as stored: float16 or float32, perhaps not normalised
    encoded: Encoded | None = None
    brought: Tensor | None = None  # z_i [B, D] of samples that bring their own, NaN of the others


class UpsamplerBatch(NamedTuple):
    """High-resolution crops; the low-resolution condition is made from them on the device."""

    image: Tensor  # [B, 3, H, W] in [-1, 1]
    captions: list[str]
    keys: list[str]
    tokens: Tensor | None = None  # [B, L] for an upsampler that reads captions
