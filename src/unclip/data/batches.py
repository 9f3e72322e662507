"""The batches of each stage, as its data module makes them and its loss takes them."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


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


class UpsamplerBatch(NamedTuple):
    """High-resolution crops; the low-resolution condition is made from them on the device."""

    image: Tensor  # [B, 3, H, W] in [-1, 1]
    captions: list[str]
    keys: list[str]
    tokens: Tensor | None = None  # [B, L] for an upsampler that reads captions
