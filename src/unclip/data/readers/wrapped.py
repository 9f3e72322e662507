"""A source with other keys, and a folder of shards with what else lies in it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from unclip.data.readers.inventory import Inventory, inventory_of
from unclip.data.readers.source import RawSample, Source, digest, hashes, raw_of
from unclip.data.sample import Sample


class WrappedSource:
    """A source like another, except for what a subclass changes."""

    def __init__(self, source: Source):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Sample:
        return self._source[index]

    def key(self, index: int) -> str:
        """The key of sample ``index``."""
        return self._source.key(index)

    def raw(self, index: int) -> RawSample | None:
        """See `raw_of`."""
        return raw_of(self._source, index)

    def hashes(self) -> np.ndarray:
        """See `hashes`."""
        return hashes(self._source)

    def inventory(self) -> Inventory | None:
        """See `inventory_of`."""
        return inventory_of(self._source)

    def shards(self) -> np.ndarray | None:
        """The source's own."""
        return self._source.shards()

    def fingerprint(self) -> str:
        """The source's own."""
        return self._source.fingerprint()


class NamedSource(WrappedSource):
    """A source whose keys begin with a name, so that they stay unique in a mixture or among tars.

    Their hashes are the source's own, so that the same samples are held out as without the name.
    """

    def __init__(self, name: str, source: Source):
        super().__init__(source)
        self._name = name

    def __getitem__(self, index: int) -> Sample:
        sample = self._source[index]
        return sample._replace(key=f"{self._name}/{sample.key}")

    def key(self, index: int) -> str:
        """The name and the source's own key."""
        return f"{self._name}/{self._source.key(index)}"

    def raw(self, index: int) -> RawSample | None:
        """See `raw_of`."""
        raw = raw_of(self._source, index)
        return None if raw is None else raw._replace(key=f"{self._name}/{raw.key}")

    def fingerprint(self) -> str:
        """A hash of the name and the source."""
        return digest((self._name, self._source.fingerprint()))


class FolderOfShards(WrappedSource):
    """The shards of a folder, in which other files may lie, counted by ``others``."""

    def __init__(self, source: Source, others: Callable[[], Inventory]):
        super().__init__(source)
        self._others = others

    def inventory(self) -> Inventory | None:
        """The members of tars, and every file of the folder."""
        found = self._others()
        if (inside := inventory_of(self._source)) is not None:
            found.add(inside)
        return found
