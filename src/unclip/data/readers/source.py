"""What every reader offers, and two sources made of other sources."""

from __future__ import annotations

import bisect
import hashlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from unclip.data.decode import LIMITS, Limits, decode_captions, decode_image
from unclip.data.keys import Strings, key_hashes
from unclip.data.readers.inventory import Inventory, inventory_of
from unclip.data.sample import Sample


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


class RawSample(NamedTuple):
    """A sample as it is stored, before anything about it was checked."""

    key: str
    where: str  # source and key, for messages
    image: bytes | None  # an image file; None where it has none
    captions: Any  # a text, its UTF-8 bytes, a list of these, or None
    z_i: np.ndarray | None = None  # float32 [D] that the image was drawn from, where it is told


@runtime_checkable
class RawSource(Protocol):
    """A source of which samples are image files, all or some."""

    def raw(self, index: int) -> RawSample | None:
        """See `raw_of`."""
        ...


def raw_of(source: Source, index: int) -> RawSample | None:
    """Sample ``index`` undecoded; None if it is not a file. `BadSample` if it cannot be read."""
    return source.raw(index) if isinstance(source, RawSource) else None


def decode_raw(raw: RawSample, limits: Limits = LIMITS) -> Sample:
    """The sample in ``raw``; raises `BadSample` when it cannot be used."""
    image = decode_image(raw.image, where=raw.where, limits=limits)
    return Sample(raw.key, image, decode_captions(raw.captions, where=raw.where), raw.z_i)


class Reader(ABC):
    """What the readers of image files share.

    Args:
        keys: A name for each sample.
        limits: Which images are refused.
    """

    def __init__(self, keys: Strings, limits: Limits):
        self._keys = keys
        self._limits = limits

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> Sample:
        return decode_raw(self.raw(index), self._limits)

    @abstractmethod
    def raw(self, index: int) -> RawSample:
        """Sample ``index`` undecoded; raises `BadSample` when it cannot be read."""

    def key(self, index: int) -> str:
        """The sample's file name, without its ending where that is unique."""
        return self._keys[index]

    def hashes(self) -> np.ndarray:
        """See `hashes`."""
        return key_hashes(self._keys)

    def inventory(self) -> Inventory | None:
        """See `inventory_of`."""
        return None

    def shards(self) -> np.ndarray | None:
        """None unless the reader knows better: every file is read alone."""
        return None


def hashes(source: Source) -> np.ndarray:
    """What decides the split: ``uint64 [N]``, `key_hash` of every key.

    Where a key had to be told apart from another (`1.png` beside `1.jpg`, or a key that a second
    tar has too), it is that of the key as it would be alone.
    """
    if isinstance(source, _Hashed):
        return source.hashes()
    return key_hashes(source.key(index) for index in range(len(source)))


@runtime_checkable
class _Hashed(Protocol):
    def hashes(self) -> np.ndarray: ...


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

    def raw(self, index: int) -> RawSample | None:
        """See `raw_of`."""
        return raw_of(self._source, int(self._indices[index]))

    def hashes(self) -> np.ndarray:
        """See `hashes`."""
        return hashes(self._source)[self._indices]

    def inventory(self) -> Inventory | None:
        """See `inventory_of`; of the whole source."""
        return inventory_of(self._source)

    def shards(self) -> np.ndarray | None:
        """What is left of the source's shards; None unless the indices ascend."""
        shards = self._source.shards()
        if shards is None or (np.diff(self._indices) < 0).any():
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

    def raw(self, index: int) -> RawSample | None:
        """See `raw_of`."""
        part, offset = self._locate(index)
        return raw_of(self._sources[part], offset)

    def hashes(self) -> np.ndarray:
        """See `hashes`."""
        return np.concatenate([hashes(source) for source in self._sources])

    def inventory(self) -> Inventory | None:
        """Of all the sources together."""
        each = [inventory_of(source) for source in self._sources]
        known = [one for one in each if one is not None]
        found = Inventory()
        for one in known:
            found.add(one)
        return found if known else None

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
