"""A source as a torch dataset: one caption and one crop per draw, and what bad samples do."""

from __future__ import annotations

import logging
from random import Random
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset

from data_modules.decode import BadSample
from data_modules.order import Draw
from data_modules.readers.source import Source
from data_modules.transforms import Transform
from unclip.seeding import derive_seed
from unclip.types import UserError

logger = logging.getLogger(__name__)

_JUDGE_FROM = 50  # draws before the share of bad samples says anything


class Example(NamedTuple):
    """What a batch is collated from."""

    key: str
    caption: str
    images: tuple[np.ndarray, ...]  # uint8 [S, S, 3] each


class Examples(Dataset[Example]):
    """Sample ``number`` as it looks in ``epoch``: a pure function of (seed, epoch, number).

    Args:
        source: The samples.
        transform: Makes the network's pictures of a sample's.
        seed: Chooses captions, crops and flips.
        on_error: `error` raises at the first bad sample; `skip` puts another in its place.
        max_skipped: Share of bad samples among those drawn (by one worker) that stops the run.
    """

    def __init__(
        self,
        source: Source,
        transform: Transform,
        *,
        seed: int,
        on_error: str = "error",
        max_skipped: float = 0.1,
    ):
        self._source = source
        self._transform = transform
        self._seed = seed
        self._on_error = on_error
        self._max_skipped = max_skipped
        self._drawn = 0
        self._bad = 0
        self._logged: set[str] = set()

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, draw: Draw) -> Example:
        """The example of ``draw``, or with `skip` of a sample that stands in for it.

        Raises:
            BadSample: It cannot be used and ``on_error`` is `error`.
            UserError: Too many cannot be used.
        """
        self._drawn += 1
        try:
            return self._example(draw, draw.number)
        except BadSample as problem:
            if self._on_error == "error":
                raise BadSample(
                    f"{problem} (data.on_error: skip leaves such samples out)"
                ) from None
            self._bad += 1
            self._log(problem)
            self._judge(problem)
        return self._replacement(draw)

    def _replacement(self, draw: Draw) -> Example:
        """Another sample, drawn anew so that a run of bad ones does not favour its neighbour."""
        for attempt in range(_JUDGE_FROM):
            other = derive_seed("replacement", self._seed, *draw, attempt) % len(self)
            try:
                return self._example(draw, other)
            except BadSample as problem:
                self._log(problem)
                last = problem
        raise UserError(f"data.source: {_JUDGE_FROM} samples in turn cannot be used, e.g. {last}")

    def _example(self, draw: Draw, index: int) -> Example:
        sample = self._source[index]
        rng = Random(derive_seed("example", self._seed, *draw))
        caption = sample.captions[int(rng.random() * len(sample.captions))]
        try:
            return Example(sample.key, caption, self._transform(sample.image, rng))
        except BadSample as problem:
            raise BadSample(f"{sample.key}: {problem}") from None

    def _log(self, problem: BadSample) -> None:
        line = str(problem)
        if line not in self._logged:
            self._logged.add(line)
            logger.warning("skipped %s", line)

    def _judge(self, problem: BadSample) -> None:
        if self._drawn >= _JUDGE_FROM and self._bad > self._max_skipped * self._drawn:
            raise UserError(
                f"data.source: {self._bad} of the first {self._drawn} samples cannot be used, more "
                f"than data.max_skipped={self._max_skipped:g}; the last: {problem}"
            )
