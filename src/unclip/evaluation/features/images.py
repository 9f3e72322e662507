"""A set of images to be measured: each read once, whole, in one order, none left out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import NamedTuple, Protocol

import numpy as np

from unclip.common.counted import counted
from unclip.common.errors import UserError
from unclip.common.home import expanded
from unclip.data import files
from unclip.data.config import ReadingConfig
from unclip.data.decode import BadSample, decode_captions, decode_image
from unclip.data.readers.listings import METADATA
from unclip.data.readers.names import ending_of, is_hidden, is_image
from unclip.data.readers.source import RawSample, Source, raw_of
from unclip.data.scenes.render import Scene, draw
from unclip.data.shard_folder import BEGUN, MANIFEST
from unclip.data.sources import open_source
from unclip.data.transforms import Square

SAMPLES = "samples.jsonl"  # what `unclip sample` writes beside its images


class EvaluatedImage(NamedTuple):
    """An image of a set."""

    number: int  # in the set's order
    key: str
    image: np.ndarray  # uint8 [S, S, 3]
    caption: str | None
    digest: str  # of its pixels
    jpeg: bool  # whether it is stored with losses


class _Stored(NamedTuple):
    key: str
    image: np.ndarray  # uint8 [H, W, 3]
    caption: str | None
    jpeg: bool


class _Reader(Protocol):
    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> _Stored: ...

    def caption(self, index: int) -> str | None: ...


@dataclass(frozen=True)
class ImageSet:
    """Images of a source; picklable, called in loader processes.

    Attributes:
        name: As it was given.
        option: How it was given, for messages.
        size: Pixels a side to which each is cropped and resized; None takes them as they are.
    """

    reader: _Reader
    name: str
    option: str
    size: int | None

    def __len__(self) -> int:
        return len(self.reader)

    def caption(self, number: int) -> str | None:
        """Of image ``number``, which is not decoded; None where it has none."""
        return self.reader.caption(number)

    def only(self, numbers: Sequence[int]) -> ImageSet:
        """Some of the images, in the order of ``numbers``."""
        return replace(self, reader=_Some(self.reader, numbers))

    def __call__(self, number: int) -> EvaluatedImage:
        """Image ``number``.

        Raises:
            UserError: it cannot be read, or is not square; one left out would change the figure.
        """
        try:
            key, image, caption, jpeg = self.reader[number]
        except (BadSample, UserError) as problem:
            line = str(problem).removeprefix("data.source: ")
            raise UserError(f"{self.option} {self.name}: {line}") from None
        if self.size is not None:
            (image,) = Square(sizes=(self.size,))(image, Random(0))
        height, width = image.shape[:2]
        if height != width:
            raise UserError(
                f"{self.option} {self.name}: {key} is {width}x{height}, not square; add --size 256 "
                "(shorter side to 256, then the middle)"
            )
        image = np.ascontiguousarray(image)
        digest = hashlib.sha256(image.tobytes()).hexdigest()
        return EvaluatedImage(number, key, image, caption, digest, jpeg)


def open_images(spec: str, *, option: str, size: int | None = None) -> ImageSet:
    """A folder of images, with or without captions, or any source that is read for training.

    Of a folder of `unclip sample` the samples alone are read, not their grid.

    Raises:
        UserError: it does not exist or holds fewer than 2 images; the line begins with ``option``.
    """
    reader: _Reader
    try:
        names = _loose_images(spec)
        if names is not None:
            reader = _Loose(spec, names)
        else:
            config = ReadingConfig(source=spec)
            reader = _Samples(open_source(spec, config, image_size=size or 64, split="all"))
    except UserError as error:
        line = str(error).removeprefix("data.source: ")
        raise UserError(f"{option}: {line}") from None
    if len(reader) < 2:
        told = counted(len(reader), "image")
        raise UserError(f"{option} {spec}: {told}; a distribution needs 2 or more")
    return ImageSet(reader, spec, option, size)


def of_source(source: Source, name: str, option: str, size: int | None) -> ImageSet:
    """Every image of an opened source."""
    return ImageSet(_Samples(source), name, option, size)


def of_scenes(scenes: Sequence[Scene], option: str, size: int) -> ImageSet:
    """Scenes of the built-in dataset, drawn."""
    return ImageSet(_Scenes(tuple(scenes), size), "scenes", option, None)


_Named = tuple[tuple[str, str | None], ...]  # files and their captions, where these are known


def _loose_images(spec: str) -> _Named | None:
    """The images in a local folder that is not a data set; None for any other source."""
    folder = expanded(spec)
    if files.is_url(spec) or not folder.is_dir():
        return None
    if (folder / BEGUN).is_file() and not (folder / MANIFEST).is_file():
        raise UserError(f"{folder}: is not finished; run the same `unclip sample` again")
    if (folder / SAMPLES).is_file():
        try:
            lines = (folder / SAMPLES).read_text(encoding="utf-8").split("\n")
            rows = [json.loads(line) for line in lines if line]
            return tuple((str(row["file"]), str(row["caption"])) for row in rows)
        except (ValueError, KeyError, TypeError, OSError):
            raise UserError(f"{folder / SAMPLES}: damaged; remove it or sample again") from None
    found = [file.name for file in files.walk(str(folder)) if not file.problem]
    images = [name for name in found if is_image(name) and not is_hidden(name)]
    texts = [name for name in found if name not in images and name.endswith((".txt", ".json"))]
    listed = any(name in METADATA or ending_of(name) in ("tar", "parquet") for name in found)
    if listed or len(texts) >= len(images):  # also where there is none of either
        return None
    return tuple((name, None) for name in images)


@dataclass(frozen=True)
class _Loose:
    """Image files without captions, or with those of `unclip sample`."""

    folder: str
    names: _Named

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> _Stored:
        name, caption = self.names[index]
        data = files.read(str(expanded(self.folder) / name))
        image = decode_image(data, where=name)
        return _Stored(name, image, caption, data[:2] == b"\xff\xd8")

    def caption(self, index: int) -> str | None:
        return self.names[index][1]


@dataclass(frozen=True)
class _Some:
    reader: _Reader
    numbers: Sequence[int]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> _Stored:
        return self.reader[self.numbers[index]]

    def caption(self, index: int) -> str | None:
        return self.reader.caption(self.numbers[index])


@dataclass(frozen=True)
class _Scenes:
    scenes: tuple[Scene, ...]
    side: int

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> _Stored:
        scene = self.scenes[index]
        return _Stored(f"scene {index}", draw(scene, self.side), None, False)

    def caption(self, index: int) -> str | None:
        return None


@dataclass(frozen=True)
class _Samples:
    source: Source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> _Stored:
        raw = raw_of(self.source, index)
        if raw is None:
            sample = self.source[index]
            return _Stored(sample.key, sample.image, sample.captions[0], False)
        image = decode_image(raw.image, where=raw.where)
        return _Stored(raw.key, image, _caption(raw), (raw.image or b"")[:2] == b"\xff\xd8")

    def caption(self, index: int) -> str | None:
        raw = raw_of(self.source, index)
        return self.source[index].captions[0] if raw is None else _caption(raw)


def _caption(raw: RawSample) -> str | None:
    try:
        return decode_captions(raw.captions, where=raw.where)[0]
    except BadSample:
        return None
