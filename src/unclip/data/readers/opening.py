"""Which reader opens what `data.source` names."""

from __future__ import annotations

import glob
import os
from concurrent.futures import ThreadPoolExecutor

from tqdm import tqdm

from unclip.common.errors import UserError
from unclip.data import files
from unclip.data.config import SOURCES
from unclip.data.decode import LIMITS, Limits
from unclip.data.readers.coco import CocoSource
from unclip.data.readers.folder import FolderSource
from unclip.data.readers.hub import HubSource
from unclip.data.readers.listings import METADATA
from unclip.data.readers.parquet import CACHE_BYTES, ParquetSource
from unclip.data.readers.source import Concat, Source
from unclip.data.readers.tar import TarSource


def open_files(spec: str, *, on_error: str = "error", limits: Limits = LIMITS) -> Source:
    """All samples of one of `SOURCES` that is not made on the spot.

    Args:
        spec: What `data.source` may be, except `scenes` and `mixture`.
        on_error: What a damaged tar does, see `TarSource`.
        limits: Which images are refused.

    Raises:
        UserError: It does not exist, is damaged or holds no samples.
    """
    path, _, images = spec.partition("?images=")
    if spec.startswith("hf:") and not files.is_url(spec):
        source: Source = HubSource(spec.removeprefix("hf:"), limits=limits)
    elif files.last_part(path).endswith(".json"):
        source = CocoSource(os.path.expanduser(path), images or None, limits=limits)
    else:
        paths = files.expand(spec)
        if len(paths) == 1 and not _is_shard(paths[0]):
            folder = paths[0]
            paths = _shards(folder)
        if paths:
            source = _open_shards(paths, on_error=on_error, limits=limits)
        else:
            source = FolderSource(folder, limits=limits)
    if len(source) == 0:
        raise UserError(f"data.source: {spec} holds no samples; expected {SOURCES}")
    return source


def _shards(folder: str) -> list[str]:
    """The tars of a folder without a listing, or else its parquets.

    img2dataset leaves a .parquet beside each tar.
    """
    if any(files.exists(files.join(folder, name)) for name in METADATA):
        return []
    place = folder if files.is_url(folder) else glob.escape(folder)
    for pattern in ("*.tar", "*.parquet"):
        if shards := files.matches(files.join(place, pattern)):
            return shards
    if not files.exists(folder):
        raise UserError(f"data.source: {folder} does not exist; expected {SOURCES}")
    if not files.is_folder(folder):
        raise UserError(f"data.source: {folder} is of no known kind; expected {SOURCES}")
    return []


def _open_shards(paths: list[str], *, on_error: str, limits: Limits) -> Source:
    cache = CACHE_BYTES // len(paths)

    def open_one(path: str) -> Source:
        if files.last_part(path).endswith(".tar"):
            return TarSource(path, on_error=on_error, limits=limits)
        if not _is_shard(path):
            raise UserError(f"data.source: {path} is not a .tar or .parquet; expected {SOURCES}")
        return ParquetSource(path, cache_bytes=cache, limits=limits)

    # Mostly waiting for the network or the disk, or reading indexes.
    with ThreadPoolExecutor(16) as pool:
        opened = pool.map(open_one, paths)
        bar = tqdm(opened, "opening", total=len(paths), unit="file", delay=2, leave=False)
        parts = list(bar)
    return parts[0] if len(parts) == 1 else Concat(parts)


def _is_shard(path: str) -> bool:
    return files.last_part(path).endswith((".tar", ".parquet"))
