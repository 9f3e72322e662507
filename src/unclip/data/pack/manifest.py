"""What a folder of packed shards says about itself, so that a killed pack can be continued."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from unclip.common.atomic import SCRATCH_SUFFIX, atomic_write
from unclip.common.checks import require
from unclip.common.errors import UserError
from unclip.data.readers.source import Source

MANIFEST = "manifest.json"
FORMAT_VERSION = 1
_PATTERNS = (MANIFEST, "[0-9]*.tar*", "train-*-of-*.parquet*")  # what a pack leaves in its folder


@dataclass(frozen=True, kw_only=True)
class Packing:
    """What the shards hold: the same source and packing give the same bytes."""

    format: str = "tar"  # tar | parquet
    shard_size: int = 10_000  # samples of the source per shard, skipped ones included
    max_side: int | None = None  # pixels to which the longer side of larger images is reduced
    quality: int = 95  # of JPEG and WebP files written for reduced images
    limit: int | None = None  # only the first so many samples

    def validate(self) -> None:
        """Refuse values out of range."""
        require(self.format in ("tar", "parquet"), "--format", "must be tar or parquet")
        require(self.shard_size > 0, "--shard-size", "must be at least 1")
        require(self.max_side is None or self.max_side > 0, "--max-side", "must be at least 1")
        require(1 <= self.quality <= 100, "--quality", "must be in [1, 100]")
        require(self.limit is None or self.limit > 0, "--limit", "must be at least 1")


@dataclass(frozen=True, kw_only=True)
class PackedShard:
    """A finished shard."""

    number: int
    file: str | None  # None if every sample was skipped
    count: int
    bytes: int
    sha256: str | None
    skipped: list[tuple[str, str]]  # key, and what is wrong
    renamed: dict[str, str]  # name in the shard: key of the source, where they differ


@dataclass(kw_only=True)
class Manifest:
    """What a folder of shards holds, and how far its making is."""

    settings: dict[str, Any]
    lists: bool = False  # parquet: captions are lists
    shards: list[PackedShard] = field(default_factory=list)
    finished: bool = False

    begun: bool = False  # it is in the folder; not stored

    @property
    def count(self) -> int:
        """Samples in the shards."""
        return sum(shard.count for shard in self.shards)

    def begin(self, out: Path) -> None:
        """As the first shard is ready: remove an earlier pack, and note that this one is there."""
        if not self.begun:
            for path in itertools.chain.from_iterable(out.glob(pattern) for pattern in _PATTERNS):
                path.unlink()
            self._write(out)
            self.begun = True

    def save(self, out: Path) -> None:
        """Replace the folder's manifest, once it has begun."""
        if self.begun:
            self.require_there(out)
            self._write(out)

    def require_there(self, out: Path) -> None:
        """Refuse to go on when the folder has been removed or moved since it began."""
        if self.begun and not (out / MANIFEST).is_file():
            raise UserError(
                f"--out {out}: {MANIFEST} is gone: the folder was removed or moved meanwhile; "
                "nothing more is saved, run the same command to start over"
            )

    def _write(self, out: Path) -> None:
        content = {"format_version": FORMAT_VERSION, "count": self.count, **asdict(self)}
        del content["begun"]
        with atomic_write(out / MANIFEST) as scratch:
            scratch.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _settings(source: Source, packing: Packing) -> dict[str, Any]:
    """What two packs must share for one to continue the other."""
    settings = asdict(packing)
    limit = settings.pop("limit") or len(source)
    return {"source": source.fingerprint(), "samples": min(len(source), limit), **settings}


def begin(source: Source, out: Path, packing: Packing, *, force: bool) -> Manifest:
    """The manifest to continue, with the shards that are still there, or a new one.

    Nothing is written or removed yet, see `Manifest.begin`.

    Raises:
        UserError: ``out`` holds something else, and ``force`` does not say to start over.
    """
    settings = _settings(source, packing)
    earlier = _read(out / MANIFEST)
    if force:
        pass
    elif earlier is not None:
        differing = [name for name in settings if earlier.settings.get(name) != settings[name]]
        if differing:
            raise UserError(
                f"--out {out}: holds a pack that differs in {', '.join(differing)}; "
                "name another folder, or replace it: --force"
            )
        earlier.shards = [shard for shard in earlier.shards if _is_there(out, shard)]
        earlier.begun = True
        return earlier
    elif out.is_dir() and any(path.suffix != SCRATCH_SUFFIX for path in out.iterdir()):
        raise UserError(f"--out {out}: is not empty; name another folder, or give --force")
    return Manifest(settings=settings)


def _read(path: Path) -> Manifest | None:
    """The manifest of a pack; None if there is none that makes sense."""
    try:
        content = json.loads(path.read_bytes())
        if content["format_version"] != FORMAT_VERSION:
            return None
        return Manifest(
            settings=dict(content["settings"]),
            lists=bool(content["lists"]),
            shards=[PackedShard(**shard) for shard in content["shards"]],
        )
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


def _is_there(out: Path, shard: PackedShard) -> bool:
    if shard.file is None:
        return True
    path = out / Path(shard.file).name
    return path.is_file() and path.stat().st_size == shard.bytes
