"""A source as a torch dataset: one caption and one crop per draw, and what bad samples do."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import NamedTuple

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from unclip.common.errors import UserError
from unclip.common.seeding import derive_seed
from unclip.data.config import ReadingConfig
from unclip.data.decode import BadSample
from unclip.data.order import Draw
from unclip.data.readers.source import Source
from unclip.data.transforms import Square, Transform, may_mirror

_TRIES = 50  # samples in the place of a bad one


class Example(NamedTuple):
    """What a batch is collated from."""

    key: str
    caption: str
    images: tuple[np.ndarray, ...]  # uint8 [S, S, 3] each
    problems: tuple[str, ...] = ()  # of the sample that it stands in for, and of others tried
    z_i: np.ndarray | None = None  # float32 [D], of a sample that brings it


class Examples(Dataset[Example]):
    """Sample ``number`` as it looks in ``epoch``: a pure function of (seed, epoch, number).

    Args:
        source: The samples.
        transform: Makes the network's images of a sample's.
        seed: Chooses captions, crops and flips.
        on_error: `error` raises at the first bad sample; `skip` puts another in its place.
    """

    def __init__(
        self,
        source: Source,
        transform: Transform,
        *,
        seed: int,
        on_error: str = "error",
    ):
        self._source = source
        self._transform = transform
        self._seed = seed
        self._on_error = on_error

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, draw: Draw) -> Example:
        """The example of ``draw``, or with `skip` of a sample that stands in for it.

        Raises:
            BadSample: It cannot be used and ``on_error`` is `error`.
            UserError: Nor can any of the samples tried in its place.
        """
        try:
            return self._example(draw, draw.number)
        except BadSample as problem:
            if self._on_error == "error":
                raise BadSample(f"{problem} (data.on_error=skip leaves such samples out)") from None
            return self._replacement(draw, str(problem))

    def _replacement(self, draw: Draw, problem: str) -> Example:
        """Another sample, drawn so that a run of bad ones does not favour its neighbour."""
        problems = [problem]
        for attempt in range(_TRIES):
            other = derive_seed("replacement", self._seed, *draw, attempt) % len(self)
            try:
                return self._example(draw, other)._replace(problems=tuple(problems))
            except BadSample as another:
                problems.append(str(another))
        raise UserError(
            f"data.source: {_TRIES} samples in a row cannot be used; the last: {problems[-1]}; "
            "`unclip data inspect` lists them all"
        )

    def _example(self, draw: Draw, index: int) -> Example:
        sample = self._source[index]
        rng = Random(derive_seed("example", self._seed, *draw))
        caption = sample.captions[int(rng.random() * len(sample.captions))]
        try:
            mirror = sample.z_i is None and may_mirror(caption)  # a z_i is of the image as it is
            images = self._transform(sample.image, rng, mirror=mirror)
            return Example(sample.key, caption, images, z_i=sample.z_i)
        except BadSample as problem:
            raise BadSample(f"{sample.key}: {problem}") from None


Tokenize = Callable[[list[str]], Tensor]
"""Captions to int64 tokens ``[B, L]``; picklable."""


class Transforms(NamedTuple):
    """How a sample's image becomes a network's, in each part of the data."""

    train: Transform
    held_out: Transform


def square_transforms(config: ReadingConfig, *sizes: int) -> Transforms:
    """The same square at each size: cropped and flipped as ``config`` says, only in training."""
    return Transforms(
        Square(sizes=sizes, random_crop=config.crop == "random", flip=config.flip),
        Square(sizes=sizes),
    )
