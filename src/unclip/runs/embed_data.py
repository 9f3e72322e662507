"""Batches for `unclip embed`: every sample once, undisturbed, with all its captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from unclip.data.config import EmbedConfig
from unclip.data.dataset import Tokenize, square_transforms
from unclip.data.decode import BadSample
from unclip.data.loader import Loader
from unclip.data.readers.source import Source
from unclip.data.sample import Sample
from unclip.data.transforms import Transform, to_tensor


class EmbedBatch(NamedTuple):
    """B images and their R captions, and what is wrong with the other samples."""

    images: Tensor | None  # [B, 3, S, S] in [-1, 1], at the CLIP's size; None without a good one
    image: Tensor  # [R] in [0, B), of each caption
    clip_tokens: Tensor  # [R, L] by the CLIP's tokenizer
    tokens: np.ndarray  # uint16 [R, L] by that of priors and decoders
    keys: list[str]  # R, of the images
    captions: list[str]  # R
    problems: list[str]


@dataclass(frozen=True)
class _Samples(Dataset[Sample | str]):
    """Sample n with its image as the CLIP takes it, or what is wrong with it."""

    source: Source
    transform: Transform
    captions: int | None  # at most so many of each
    on_error: str

    def __getitem__(self, number: int) -> Sample | str:
        try:
            sample = self.source[number]
        except BadSample as problem:
            if self.on_error == "error":
                raise BadSample(f"{problem} (--on-error=skip leaves such samples out)") from None
            return str(problem)
        (image,) = self.transform(sample.image, Random(0))
        return sample._replace(image=image, captions=sample.captions[: self.captions])


@dataclass(frozen=True)
class _Collate:
    clip_tokenize: Tokenize
    tokenize: Tokenize

    def __call__(self, samples: Sequence[Sample | str]) -> EmbedBatch:
        good = [sample for sample in samples if not isinstance(sample, str)]
        captions = [caption for sample in good for caption in sample.captions]
        owners = [k for k, sample in enumerate(good) for _ in sample.captions]
        return EmbedBatch(
            images=to_tensor([sample.image for sample in good]) if good else None,
            image=torch.tensor(owners, dtype=torch.int64),
            clip_tokens=self.clip_tokenize(captions),
            tokens=self.tokenize(captions).numpy().astype(np.uint16),
            keys=[good[k].key for k in owners],
            captions=captions,
            problems=[sample for sample in samples if isinstance(sample, str)],
        )


def embed_loader(
    source: Source,
    batches: Sequence[Sequence[int]],
    *,
    config: EmbedConfig,
    clip_image_size: int,
    clip_tokenize: Tokenize,
    tokenize: Tokenize,
) -> Loader:
    """An `EmbedBatch` for each of ``batches``, which are numbers of samples.

    Iterating raises `BadSample` at a bad one if ``config.data.on_error`` is `error`.
    """
    captions = 1 if config.captions == "first" else None
    transform = square_transforms(config.data, clip_image_size).held_out
    return Loader(
        _Samples(source, transform, captions, config.data.on_error),
        batches=batches,
        collate=_Collate(clip_tokenize, tokenize),
        num_workers=config.data.num_workers,
    )
