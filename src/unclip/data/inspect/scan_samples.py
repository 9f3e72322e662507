"""A few numbers about every sample of a source, for the report of `unclip data inspect`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import imagehash
import numpy as np
from PIL import Image, ImageStat

from unclip.data.decode import BadSample
from unclip.data.keys import key_hash
from unclip.data.readers.source import Source, raw_of
from unclip.data.scan import image_format, scan
from unclip.data.skips import kind_of
from unclip.embeddings.tokens import Tokenizer

FEW = 5  # keys that a report names of a kind

_IMAGE = [
    ("index", np.int64),
    ("width", np.uint32),
    ("height", np.uint32),
    ("captions", np.uint32),
    ("format", "S8"),
    ("contrast", np.float32),  # largest standard deviation of a channel, in levels of 0 to 255
    ("hash", np.uint64),  # pHash
]
_CAPTION = [
    ("index", np.int64),
    ("number", np.uint32),
    ("characters", np.uint32),
    ("tokens", np.uint32),
    ("hash", np.uint64),
]


@dataclass
class Kind:
    """Samples that cannot be used for one reason."""

    count: int = 0
    keys: list[str] = field(default_factory=list)  # the first few
    example: str = ""  # the first message


class SourceScan(NamedTuple):
    """A source in numbers.

    Attributes:
        images: A record per readable sample (fields of ``_IMAGE``).
        captions: A record per caption of these.
        problems: What is wrong with the others.
    """

    images: np.ndarray
    captions: np.ndarray
    problems: dict[str, Kind]


class _Problem(NamedTuple):
    key: str
    kind: str
    message: str


class _Measured(NamedTuple):
    image: tuple
    captions: list[tuple]


class _Chunk(NamedTuple):
    images: np.ndarray
    captions: np.ndarray
    problems: list[_Problem]


def scan_source(
    source: Source, indices: np.ndarray, *, tokenizer: Tokenizer, workers: int
) -> SourceScan:
    """Measure the samples ``indices`` in ``workers`` processes; some 70 bytes of each are kept."""
    images, captions = [np.empty(0, dtype=_IMAGE)], [np.empty(0, dtype=_CAPTION)]
    problems: dict[str, Kind] = {}
    measure = _Measure(source, tokenizer)
    for chunk in scan(measure, indices, collate=_collate, workers=workers, title="inspecting"):
        images.append(chunk.images)
        captions.append(chunk.captions)
        for problem in chunk.problems:
            kind = problems.setdefault(problem.kind, Kind(example=problem.message))
            kind.count += 1
            if len(kind.keys) < FEW:
                kind.keys.append(problem.key)
    return SourceScan(np.concatenate(images), np.concatenate(captions), problems)


@dataclass(frozen=True)
class _Measure:
    source: Source
    tokenizer: Tokenizer

    def __call__(self, index: int) -> _Measured | _Problem:
        try:
            sample = self.source[index]
            raw = raw_of(self.source, index)
            stored = None if raw is None else raw.image
        except BadSample as problem:
            key = self.source.key(index)
            return _Problem(key, kind_of(str(problem)), str(problem))
        height, width = sample.image.shape[:2]
        image = Image.fromarray(sample.image)
        pixels = (
            index,
            width,
            height,
            len(sample.captions),
            image_format(stored) if stored else "drawn",
            max(ImageStat.Stat(image).stddev),
            int.from_bytes(np.packbits(imagehash.phash(image).hash).tobytes(), "big"),
        )
        return _Measured(
            pixels,
            [
                (index, number, len(caption), self.tokenizer.count(caption), key_hash(caption))
                for number, caption in enumerate(sample.captions)
            ],
        )


def _collate(results: list[_Measured | _Problem]) -> _Chunk:
    measured = [result for result in results if isinstance(result, _Measured)]
    return _Chunk(
        np.array([each.image for each in measured], dtype=_IMAGE),
        np.array([row for each in measured for row in each.captions], dtype=_CAPTION),
        [result for result in results if isinstance(result, _Problem)],
    )
