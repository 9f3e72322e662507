"""What every reader offers, and two sources made of other sources."""

from __future__ import annotations

import bisect
import hashlib
import itertools
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from data_modules.decode import decode_captions, decode_image
from data_modules.sample import Sample


class Source(Protocol):
    """A fixed list of samples with random access; picklable and safe to use after a fork."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """Sample ``index`` in [0, len); raises `BadSample` when it cannot be used."""
        ...

    def key(self, index: int) -> str:
        """The key of sample ``index``, without decoding the sample."""
        ...

    def shards(self) -> np.ndarray | None:
        """Lengths of the runs of samples that are read together (a tar, a row group).

        ``int64``, adding up to the source's length; None where any order costs the same.
        """
        ...

    def fingerprint(self) -> str:
        """A short hash that changes with the samples, but not with the folder they lie in."""
        ...


class Raw(NamedTuple):
    """A sample as it is stored, before anything about it was checked."""

    key: str
    where: str  # source and key, for messages
    image: bytes | None  # an image file; None where it has none
    captions: Any  # a text, its UTF-8 bytes, a list of these, or None


@runtime_checkable
class Stored(Protocol):
    """A source of image files."""

    def raw(self, index: int) -> Raw:
        """Sample ``index`` undecoded; raises `BadSample` when it cannot be read."""
        ...


def decoded(raw: Raw) -> Sample:
    """The sample in ``raw``; raises `BadSample` when it cannot be used."""
    image = decode_image(raw.image, where=raw.where)
    return Sample(raw.key, image, decode_captions(raw.captions, where=raw.where))


def key_of(name: str) -> str:
    """A file's path up to the first dot of its last part, as webdataset groups tar members.

    >>> key_of("./birds/0001.seg.png")
    'birds/0001'
    """
    path = PurePosixPath(name)
    key = str(path.with_name(path.name.split(".", 1)[0]))
    return key.encode("utf-8", "backslashreplace").decode()


def digest(parts: Iterable[object]) -> str:
    """A short hash of the text of ``parts``."""
    state = hashlib.blake2b(digest_size=8)
    for part in parts:
        state.update(f"{part!r}\n".encode())
    return state.hexdigest()


class Subset:
    """Some samples of a source, in the order of ``indices``."""

    def __init__(self, source: Source, indices: np.ndarray):
        self._source = source
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Sample:
        return self._source[int(self._indices[index])]

    def key(self, index: int) -> str:
        """The key of sample ``index``."""
        return self._source.key(int(self._indices[index]))

    def raw(self, index: int) -> Raw:
        """Sample ``index`` undecoded, of a source of image files."""
        return self._source.raw(int(self._indices[index]))  # type: ignore[attr-defined]

    def shards(self) -> np.ndarray | None:
        """What is left of the source's shards, for ascending indices."""
        shards = self._source.shards()
        if shards is None:
            return None
        ends = np.searchsorted(self._indices, np.cumsum(shards))
        kept = np.diff(ends, prepend=0)
        return kept[kept > 0]

    def fingerprint(self) -> str:
        """A hash of the source and of what was taken from it."""
        chosen = hashlib.blake2b(self._indices.astype("<i8").tobytes(), digest_size=8)
        return digest((self._source.fingerprint(), chosen.hexdigest()))


class Concat:
    """Several sources, one after the other."""

    def __init__(self, sources: Sequence[Source]):
        self._sources = sources
        self._ends = list(itertools.accumulate(len(source) for source in sources))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Sample:
        part, offset = self._locate(index)
        return self._sources[part][offset]

    def key(self, index: int) -> str:
        """The key of sample ``index``."""
        part, offset = self._locate(index)
        return self._sources[part].key(offset)

    def raw(self, index: int) -> Raw:
        """Sample ``index`` undecoded, of sources of image files."""
        part, offset = self._locate(index)
        return self._sources[part].raw(offset)  # type: ignore[attr-defined]

    def shards(self) -> np.ndarray | None:
        """Those of the sources in a row; one without any is a shard."""
        each = [source.shards() for source in self._sources]
        if all(shards is None for shards in each):
            return None
        return np.concatenate(
            [[len(s)] if n is None else n for s, n in zip(self._sources, each)]
        ).astype(np.int64)

    def fingerprint(self) -> str:
        """A hash of all the sources."""
        return digest(source.fingerprint() for source in self._sources)

    def _locate(self, index: int) -> tuple[int, int]:
        part = bisect.bisect_right(self._ends, index)
        return part, index - (self._ends[part - 1] if part else 0)
