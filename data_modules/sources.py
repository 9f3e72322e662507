"""Which reader opens `data.source`, and which of its samples are for training."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from data_modules.configs import DataConfig
from data_modules.readers.folder import METADATA, FolderSource
from data_modules.readers.parquet import CACHE_BYTES, ParquetSource
from data_modules.readers.source import Concat, Source, Subset, digest
from data_modules.readers.tar import TarSource
from data_modules.scenes import Scenes
from unclip.types import UserError

Split = Literal["train", "held_out", "all"]

_EXPECTED = "`scenes`, a .parquet or .tar file, or a folder with metadata.jsonl, .tar or .parquet"


class Splits(NamedTuple):
    """A source in two parts that share no key."""

    train: Source
    held_out: Source
    weights: tuple[float, ...] | None = None
    lengths: tuple[int, ...] = ()


class SceneSource(Scenes):
    """The built-in scenes as a `Source`."""

    def key(self, index: int) -> str:
        """The scene's number as text."""
        return self[index].key

    def shards(self) -> None:
        """Any scene is drawn as soon as any other."""

    def fingerprint(self) -> str:
        """A hash of the settings and of the first picture, which tells the renderer's version."""
        pixels = hashlib.blake2b(self[0].image.tobytes(), digest_size=8).hexdigest()
        return digest((asdict(self.config), self.size, self.start, self.count, pixels))


def open_splits(config: DataConfig, *, image_size: int) -> Splits:
    """The training and the held-out samples of ``config.source``, opened once.

    Args:
        config: Where the samples are, which share is held out, and `limit` for the training part.
        image_size: Pixels a side at which scenes are drawn; files keep their own sizes.

    Raises:
        UserError: The source does not exist, is damaged or holds no samples.
    """
    if config.source == "scenes":
        count = config.scenes.count if config.limit is None else config.limit
        even = replace(config, scenes=replace(config.scenes, contrast=1))  # judged without pairs
        return Splits(
            _scenes(config, image_size, start=0, count=min(count, config.scenes.count)),
            _scenes(even, image_size, start=config.scenes.count, count=_held_out_scenes(config)),
        )
    source = _open_files(Path(config.source).expanduser(), on_error=config.on_error)
    held_out = np.array([is_held_out(source.key(i), config.held_out) for i in range(len(source))])
    return Splits(
        Subset(source, np.flatnonzero(~held_out)[: config.limit]),
        Subset(source, np.flatnonzero(held_out)),
    )


def open_source(
    spec: str, config: DataConfig, *, image_size: int, split: Split = "train"
) -> Source:
    """One part of the source ``spec``, or `all` of it (for a set that is for evaluation only).

    Args:
        spec: Takes the place of ``config.source``.
        config: As for `open_splits`.
        image_size: As for `open_splits`.
        split: `train` (with `limit`), `held_out`, or `all` (no split, no limit).

    Raises:
        UserError: The source does not exist, is damaged or holds no samples.
    """
    if split != "all":
        splits = open_splits(replace(config, source=spec), image_size=image_size)
        return splits.train if split == "train" else splits.held_out
    if spec == "scenes":
        count = config.scenes.count + _held_out_scenes(config)
        return _scenes(config, image_size, start=0, count=count)
    return _open_files(Path(spec).expanduser(), on_error=config.on_error)


def is_held_out(key: str, share: float) -> bool:
    """Whether a sample is for validation: by a hash of its key, so wherever it stands in a file."""
    hashed = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(hashed, "little") < share * 2**64


def _held_out_scenes(config: DataConfig) -> int:
    """Scenes cost nothing to have, so there are always enough for `val_samples`."""
    if config.held_out == 0:
        return 0
    return max(config.val_samples, round(config.held_out * config.scenes.count))


def _scenes(config: DataConfig, image_size: int, *, start: int, count: int) -> SceneSource:
    return SceneSource(config.scenes, size=image_size, start=start, count=count)


def _open_files(path: Path, *, on_error: str) -> Source:
    if not path.exists():
        raise UserError(f"data.source: {path} does not exist; expected {_EXPECTED}")
    if (path / METADATA).is_file():
        source: Source = FolderSource(path)
    else:
        files = _shards(path) if path.is_dir() else [path]
        cache = CACHE_BYTES // max(1, len(files))
        parts = [_open_file(file, on_error=on_error, cache_bytes=cache) for file in files]
        if not parts:
            raise UserError(
                f"data.source: {path} has no metadata.jsonl, .tar or .parquet in it; "
                f"expected {_EXPECTED}"
            )
        source = parts[0] if len(parts) == 1 else Concat(parts)
    if len(source) == 0:
        raise UserError(f"data.source: {path} holds no samples")
    return source


def _shards(folder: Path) -> list[Path]:
    """The tars of a folder, or else its parquets: img2dataset writes a .parquet beside each tar."""
    return sorted(folder.glob("*.tar")) or sorted(folder.glob("*.parquet"))


def _open_file(path: Path, *, on_error: str, cache_bytes: int) -> Source:
    if path.suffix == ".tar":
        return TarSource(path, on_error=on_error)
    if path.suffix == ".parquet":
        return ParquetSource(path, cache_bytes=cache_bytes)
    raise UserError(f"data.source: {path} is not a .tar or .parquet file; expected {_EXPECTED}")
