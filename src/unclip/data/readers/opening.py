"""Which reader opens what `data.source` names."""

from __future__ import annotations

import glob
import logging
import os
import re
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pyarrow.parquet as pq
from tqdm import tqdm

from unclip.common.errors import UserError
from unclip.data import files
from unclip.data.config import SOURCES
from unclip.data.decode import LIMITS, Limits
from unclip.data.readers.coco import CocoSource
from unclip.data.readers.folder import FolderSource
from unclip.data.readers.hub import SAVED, HubSource
from unclip.data.readers.inventory import Inventory, inventory_of
from unclip.data.readers.listings import METADATA
from unclip.data.readers.names import ending_of, is_hidden, is_image, stem_of, why_unread
from unclip.data.readers.parquet import CACHE_BYTES, DAMAGE, ParquetSource
from unclip.data.readers.source import Concat, Source, hashes
from unclip.data.readers.tar import TarSource
from unclip.data.readers.wrapped import CaptionedSource, FolderOfShards, NamedSource
from unclip.data.shard_folder import BEGUN, MANIFEST, RECORDS

logger = logging.getLogger(__name__)

_SHARDS = ("tar", "parquet")


def open_files(
    spec: str, *, on_error: str = "error", limits: Limits = LIMITS, caption: str | None = None
) -> Source:
    """All samples of one of `SOURCES` that is not made on the spot.

    Args:
        spec: What `data.source` may be, except `scenes` and `mixture`.
        on_error: What a damaged tar does, see `TarSource`.
        limits: Which images are refused.
        caption: Of images that have none, see `CaptionedSource`; without it they are bad samples.

    Raises:
        UserError: It does not exist, is damaged or holds no samples.
    """
    silent = caption is not None
    path, _, images = spec.partition("?images=")
    if spec.startswith("hf:") and not files.is_url(spec):
        source: Source = HubSource(spec.removeprefix("hf:"), limits=limits, silent=silent)
    elif ending_of(files.last_part(path)) == "json":
        source = CocoSource(os.path.expanduser(path), images or None, limits=limits, silent=silent)
    else:
        paths = list(dict.fromkeys(files.expand(spec)))
        folder = "" if len(paths) > 1 or _is_shard(paths[0]) else paths[0]
        paths = _shards(folder) if folder else paths
        if paths:
            source = _open_shards(paths, on_error=on_error, limits=limits, silent=silent)
            if folder and not files.is_url(folder):
                others = partial(_others, folder, {files.last_part(path) for path in paths})
                source = FolderOfShards(source, others)
        else:
            source = FolderSource(folder, limits=limits, silent=silent)
    if len(source) == 0:
        found = inventory_of(source)
        why = f" ({found.reasons()})" if found is not None and found.left_out else ""
        raise UserError(f"data.source: {spec} holds no samples{why}; expected {SOURCES}")
    return source if caption is None else CaptionedSource(source, caption, _place(spec), limits)


def tars_of(spec: str) -> list[str]:
    """The tars that `open_files` would read for ``spec``.

    Raises:
        UserError: It does not exist, or is not a source of tars.
    """
    paths = list(dict.fromkeys(files.expand(spec)))
    if len(paths) == 1 and not _is_shard(paths[0]):
        paths = _shards(paths[0])
    if not paths or any(ending_of(files.last_part(path)) != "tar" for path in paths):
        raise UserError(
            f"data.source: {spec} is not a source of tars, so there is no index to make"
        )
    return paths


def _shards(folder: str) -> list[str]:
    """The tars of a folder without a listing, or else its parquets, if they hold images.

    img2dataset leaves a .parquet beside each tar, or beside each folder of images.
    """
    if any(files.exists(files.join(folder, name)) for name in METADATA):
        return []
    place = folder if files.is_url(folder) else glob.escape(folder)
    for pattern in ("*.[tT][aA][rR]", "*.[pP][aA][rR][qQ][uU][eE][tT]"):
        shards = [p for p in files.matches(files.join(place, pattern)) if not _hidden(p)]
        if shards and (ending_of(shards[0]) == "tar" or not _about_images(shards[0], folder)):
            return shards
    if not files.exists(folder):
        raise UserError(f"data.source: {folder} does not exist; expected {SOURCES}")
    if any(files.exists(files.join(folder, name)) for name in SAVED):
        raise UserError(
            f"data.source: {folder} was written by save_to_disk of datasets; read it by "
            f"data.source=hf:{folder}"
        )
    if not files.is_folder(folder):
        raise UserError(
            f"data.source: {folder} is not a source that unclip reads; expected {SOURCES}"
        )
    return []


def _hidden(path: str) -> bool:
    return is_hidden(files.last_part(path))


def _about_images(parquet: str, folder: str) -> bool:
    """Whether a parquet tells of images that lie in its folder as files."""
    try:
        with files.stat_file(parquet).open() as file:
            if "image" in pq.read_schema(file).names:
                return False
    except DAMAGE:
        return False  # its reader says what is wrong
    return any(is_image(file.name) and not is_hidden(file.name) for file in files.walk(folder))


def _others(folder: str, shards: set[str]) -> Inventory:
    """The files of a folder of ``shards``; a tar is not a file of its own beside its members."""
    found = Inventory()
    for file in files.walk(folder):
        if file.name in shards:
            found.read += ending_of(file.name) != "tar"
        elif file.problem:
            found.leave_out(file.name, file.problem)
        elif _is_record(file.name):
            continue
        elif file.name.endswith(".index.npz"):
            found.leave_out(file.name, "the index of a tar")
        elif is_hidden(file.name):
            found.leave_out(file.name, why_unread(file.name))
        else:
            found.leave_out(file.name, "beside shards, which alone are read")
    return found


def _is_record(name: str) -> bool:
    """Whether `ShardFolder` wrote the file beside its shards."""
    return name in (MANIFEST, BEGUN) or re.fullmatch(rf"{RECORDS}/\d+\.json", name) is not None


def _place(spec: str) -> str:
    """The name of what ``spec`` names, without endings: the folder of images at its top."""
    return stem_of(files.last_part(os.path.abspath(spec.partition("?")[0].rstrip("/"))))


def _open_shards(paths: list[str], *, on_error: str, limits: Limits, silent: bool) -> Source:
    cache = CACHE_BYTES // len(paths)

    def open_one(path: str) -> Source:
        if ending_of(files.last_part(path)) == "tar":
            return TarSource(path, on_error=on_error, limits=limits)
        if not _is_shard(path):
            raise UserError(f"data.source: {path} is not a .tar or .parquet; expected {SOURCES}")
        return ParquetSource(path, cache_bytes=cache, limits=limits, silent=silent)

    # Mostly waiting for the network or the disk, or reading indexes.
    with ThreadPoolExecutor(16) as pool:
        opened = pool.map(open_one, paths)
        bar = tqdm(opened, "opening", total=len(paths), unit="file", delay=2, leave=False)
        parts = list(bar)
    return parts[0] if len(parts) == 1 else Concat(_told_apart(parts, paths))


def _told_apart(parts: list[Source], paths: list[str]) -> list[Source]:
    """``parts`` with keys that differ: one that repeats keys of those before it gets a name."""
    each = [hashes(part) for part in parts]
    every = np.sort(np.concatenate(each))
    repeated = np.unique(every[1:][every[1:] == every[:-1]])
    if not len(repeated):
        return parts
    names, taken, found = _names(paths), np.empty(0, np.uint64), []
    for part, name, own in zip(parts, names, each):
        mine = np.intersect1d(own, repeated)
        again = np.isin(mine, taken).any()
        found.append(NamedSource(name, part) if again else part)
        taken = np.union1d(taken, mine)
    count = sum(isinstance(part, NamedSource) for part in found)
    first = next(name for name, part in zip(names, found) if isinstance(part, NamedSource))
    logger.warning(
        "data.source: keys repeat: those of %d of %d files begin with the file's name, as %s/...",
        count,
        len(parts),
        first,
    )
    return found


def _names(paths: list[str]) -> list[str]:
    """As much of the end of each path as tells it from the others, without the ending."""
    split = [path.rpartition(".")[0].split("/") for path in paths]
    for depth in range(1, max(map(len, split)) + 1):
        names = ["/".join(parts[-depth:]) for parts in split]
        if len(set(names)) == len(names):
            break
    return names


def _is_shard(path: str) -> bool:
    return ending_of(files.last_part(path)) in _SHARDS
