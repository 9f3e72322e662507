"""Writes a source as webdataset tars or Hugging Face parquet, shard by shard; restartable."""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from unclip.common.atomic import atomic_write, remove_parts
from unclip.common.counted import counted
from unclip.common.errors import UserError
from unclip.common.hashing import file_sha256
from unclip.data.decode import BadSample
from unclip.data.pack.manifest import Manifest, PackedShard, Packing, begin
from unclip.data.pack.shards import SampleRow, SeveralCaptions, safe_name, write_parquet, write_tar
from unclip.data.readers.source import Source, raw_of
from unclip.data.readers.tar_index import write_beside
from unclip.data.scan import image_format, scan
from unclip.data.skips import kind_of

_NAMES = {"tar": "{number:05d}.tar", "parquet": "train-{number:05d}-of-{shards:05d}.parquet"}
_COPIED = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}  # formats, and endings
_WRITTEN = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}


def pack(
    source: Source, out: Path, packing: Packing, *, workers: int, on_error: str, force: bool
) -> Manifest:
    """Write ``source`` into the folder ``out``, or what is still missing of it.

    Images are copied as they are stored; those that no reader of tars knows (or that are drawn)
    become PNG, and those that are reduced keep their format.

    Args:
        source: Any samples; each is decoded once, to know that it can be.
        out: New, empty, or with an unfinished pack of the same source and ``packing``.
        packing: What the shards hold.
        workers: Processes that read and decode.
        on_error: `skip` leaves unreadable samples out, `error` stops at the first.
        force: Remove the shards and the manifest that are in ``out``, and start over.

    Raises:
        UserError: A setting is out of range, ``out`` holds something else or cannot be written, or
            no sample can be used.
        BadSample: A sample cannot be used and ``on_error`` is `error`.
    """
    packing.validate()
    made = [path for path in (out, *out.parents) if not path.exists()]
    try:
        manifest = begin(source, out, packing, force=force)
        prepare = _Prepare(source, packing, on_error)
        while not manifest.finished:
            try:
                _write_missing(prepare, out, manifest, workers=workers)
            except SeveralCaptions:  # all shards have one schema
                manifest.lists, manifest.shards = True, []
    except OSError as error:
        raise UserError(f"--out {out}: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):  # not empty: there is a shard
            for path in made:
                path.rmdir()
    return manifest


def _write_missing(prepare: _Prepare, out: Path, manifest: Manifest, *, workers: int) -> None:
    """Write the shards that ``manifest`` does not have, and note each when it is whole."""
    size, count = manifest.settings["shard_size"], manifest.settings["samples"]
    shards = -(-count // size)
    missing = sorted(set(range(shards)) - {shard.number for shard in manifest.shards})
    spans = [np.arange(n * size, min((n + 1) * size, count)) for n in missing]
    indices = np.concatenate([np.empty(0, dtype=np.int64), *spans])
    chunks = scan(prepare, indices, collate=list, workers=workers, title="packing")
    results = itertools.chain.from_iterable(chunks)
    for number, those in itertools.groupby(results, key=lambda result: result.number // size):
        name = _NAMES[manifest.settings["format"]].format(number=number, shards=shards)
        manifest.require_there(out)
        shard = _write_shard(out / name, number, those, manifest)
        manifest.shards = sorted([*manifest.shards, shard], key=lambda shard: shard.number)
        manifest.save(out)
    if manifest.count == 0:
        key, problem = manifest.shards[0].skipped[0]
        raise UserError(f"none of {counted(count, 'sample')} can be used; {key}: {problem}")
    remove_parts(out)  # of packs that were killed
    manifest.finished = True
    manifest.save(out)


def _write_shard(
    path: Path, number: int, results: Iterable[_Result], manifest: Manifest
) -> PackedShard:
    """One shard, whole or not at all; none if all its samples are skipped."""
    skipped: list[tuple[str, str]] = []
    renamed: dict[str, str] = {}
    rows = _rows(results, skipped, renamed)
    first = next(rows, None)
    file, count, size, sha256 = None, 0, 0, None
    if first is not None:
        rows = itertools.chain([first], rows)
        with atomic_write(path) as scratch:
            if path.suffix == ".tar":
                count = write_tar(scratch, rows)
            else:
                count = write_parquet(scratch, rows, lists=manifest.lists)
            manifest.begin(path.parent)
        if path.suffix == ".tar":
            write_beside(path)
        file, size, sha256 = path.name, path.stat().st_size, file_sha256(path)
    return PackedShard(
        number=number,
        file=file,
        count=count,
        bytes=size,
        sha256=sha256,
        skipped=skipped,
        renamed=renamed,
    )


def _rows(
    results: Iterable[_Result], skipped: list[tuple[str, str]], renamed: dict[str, str]
) -> Iterator[SampleRow]:
    """Readable samples under names that differ; notes the others, and names that are not keys."""
    used: set[str] = set()
    for result in results:
        if result.row is None:
            skipped.append((result.key, result.problem))
            continue
        name = safe_name(result.key)
        while not name or name in used:
            name += f"-{result.number:08d}"
        used.add(name)
        if name != result.key:
            renamed[name] = result.key
        yield result.row._replace(name=name)


class _Result(NamedTuple):
    number: int  # of the sample
    key: str
    row: SampleRow | None  # None if it is skipped
    problem: str = ""


@dataclass(frozen=True)
class _Prepare:
    """What a worker does with each sample."""

    source: Source
    packing: Packing
    on_error: str

    def __call__(self, index: int) -> _Result:
        try:
            sample = self.source[index]
            raw = raw_of(self.source, index)
            stored = None if raw is None else raw.image
        except BadSample as problem:
            if self.on_error == "error":
                raise BadSample(f"{problem} (--on-error=skip leaves such samples out)") from None
            key = self.source.key(index)
            return _Result(index, key, None, kind_of(str(problem)))
        ending, image = self._file(sample.image, stored)
        z_i = None if sample.z_i is None else sample.z_i.tolist()
        row = SampleRow(sample.key, ending, image, sample.captions, z_i=z_i)
        return _Result(index, sample.key, row)

    def _file(self, pixels: np.ndarray, stored: bytes | None) -> tuple[str, bytes]:
        """Ending and content of the image file."""
        ending = _COPIED.get(image_format(stored)) if stored else None
        side = self.packing.max_side or max(pixels.shape[:2])
        reduced = max(pixels.shape[:2]) > side
        if ending and stored and not reduced:
            return ending, stored
        image, file = Image.fromarray(pixels), io.BytesIO()
        if reduced:
            image.thumbnail((side, side), Image.Resampling.BICUBIC, reducing_gap=None)
        ending = ending or "png"
        image.save(file, _WRITTEN[ending], quality=self.packing.quality)
        return ending, file.getvalue()
