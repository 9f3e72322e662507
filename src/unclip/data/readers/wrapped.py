"""A source with other keys, and a folder of shards with what else lies in it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from unclip.data.decode import Limits
from unclip.data.readers.inventory import Inventory, inventory_of
from unclip.data.readers.source import RawSample, Source, decode_raw, digest, hashes, raw_of
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


class CaptionedSource(WrappedSource):
    """A source whose images without a caption have ``caption``.

    Args:
        source: Of image files.
        caption: ``{folder}`` in it stands for the folder that an image lies in, its ``_`` spaces.
        place: The name of the folder of images that lie in none.
        limits: Which images are refused.
    """

    def __init__(self, source: Source, caption: str, place: str, limits: Limits):
        super().__init__(source)
        self._caption, self._place, self._limits = caption, place, limits

    def __getitem__(self, index: int) -> Sample:
        raw = self.raw(index)
        return self._source[index] if raw is None else decode_raw(raw, self._limits)

    def raw(self, index: int) -> RawSample | None:
        """See `raw_of`."""
        raw = raw_of(self._source, index)
        if raw is None or raw.captions not in (None, []):
            return raw
        above = raw.key.rpartition("/")[0]
        folder = (above.rpartition("/")[2] or self._place).replace("_", " ")
        return raw._replace(captions=self._caption.replace("{folder}", folder))

    def fingerprint(self) -> str:
        """A hash of the source and of the caption."""
        place = self._place if "{folder}" in self._caption else ""
        return digest((self._source.fingerprint(), self._caption, place))


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
