"""Writing an embeddings folder so that an interrupted run goes on where it was; verifying one."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from unclip.common.atomic import SCRATCH_SUFFIX, atomic_write, remove_parts
from unclip.common.errors import UserError
from unclip.common.hashing import file_sha256
from unclip.data.embedding_store import layout
from unclip.data.embedding_store.source import EmbeddingSource
from unclip.data.keys import key_hashes
from unclip.embeddings.config import UNIT

RECORDS = "shards"  # N.json says of finished shard N what is in it


class EmbeddingShard(NamedTuple):
    """What a shard holds, or a part of one: a row for each caption."""

    z_i: np.ndarray  # [N, D]
    z_t: np.ndarray  # [N, D]
    tokens: np.ndarray  # uint16 [N, L]
    keys: list[str]
    captions: list[str]
    skipped: int  # samples that have no row, because they are bad


def concatenate_shards(parts: list[EmbeddingShard]) -> EmbeddingShard:
    """The shard of which ``parts`` are all parts in order."""
    return EmbeddingShard(
        z_i=np.concatenate([part.z_i for part in parts]),
        z_t=np.concatenate([part.z_t for part in parts]),
        tokens=np.concatenate([part.tokens for part in parts]),
        keys=[key for part in parts for key in part.keys],
        captions=[caption for part in parts for caption in part.captions],
        skipped=sum(part.skipped for part in parts),
    )


class Writer:
    """The folder of one run of `unclip embed`, and of those that resume it.

    Args:
        out: The folder.
        header: What decides the content; it opens the manifest.
        shards: How many there will be.
    """

    def __init__(self, out: Path, header: dict[str, Any], shards: int):
        self._out = out
        self._header = {"format_version": layout.FORMAT_VERSION, **header}
        self._shards = shards

    def check(self, *, force: bool) -> None:
        """Refuse a folder of other things, or (unless ``force``) of another run; writes nothing.

        Raises:
            UserError: It is such a folder.
        """
        begun = self._out / layout.BEGUN
        if force and begun.is_file():
            return
        before = layout.read_json(begun)
        if before is None and self._out.exists():
            # One that was killed as it began left a part of a file.
            if not self._out.is_dir() or any(
                p.suffix != SCRATCH_SUFFIX for p in self._out.iterdir()
            ):
                raise UserError(
                    f"--out {self._out}: exists and is no folder of `unclip embed`; name another"
                )
        elif before is not None:
            then, now = ({"embeddings": UNIT, **_leaves(each)} for each in (before, self._header))
            for name, value in now.items():
                if name.endswith("source"):  # the same data and CLIP may have moved
                    continue
                if (other := then.get(name)) != value:
                    raise UserError(
                        f"--out {self._out}: was started with {name} {other}, this is {value}; "
                        "name another folder, or replace it with --force"
                    )

    def prepare(self, *, force: bool) -> None:
        """Note what this run is; with ``force`` remove what is there."""
        try:
            self._out.mkdir(parents=True, exist_ok=True)
            if force:
                for name in (layout.MANIFEST, layout.BEGUN):
                    (self._out / name).unlink(missing_ok=True)
                kinds = [RECORDS, *layout.KINDS, f"{layout.TOKENS}_*"]  # the last: made when read
                for folder in [path for kind in kinds for path in self._out.glob(kind)]:
                    shutil.rmtree(folder)
            for folder in (self._out, *(self._out / kind for kind in (RECORDS, *layout.KINDS))):
                remove_parts(folder)
            layout.write_json(self._out / layout.BEGUN, self._header)
        except OSError as error:
            raise self._unwritable(error) from None

    def unfinished(self) -> list[int]:
        """Numbers of the shards that are yet to be written, or are not as they were written."""
        return [shard for shard in range(self._shards) if not self._whole(shard)]

    def _whole(self, shard: int) -> bool:
        try:
            files = self._record(shard)["files"]
            sizes = {name: (self._out / name).stat().st_size for name in self._names(shard)}
            return sizes == {name: file["bytes"] for name, file in files.items()}
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def write(self, number: int, shard: EmbeddingShard) -> None:
        """Write shard ``number``; its record comes last.

        Raises:
            UserError: It cannot be written, or the folder was removed meanwhile.
        """
        if not (self._out / layout.BEGUN).is_file():
            raise UserError(
                f"--out {self._out}: {layout.BEGUN} is gone: the folder was removed or moved "
                "meanwhile; nothing more is saved, run the same command to start over"
            )
        arrays = {
            layout.IMAGES: shard.z_i,
            layout.TEXTS: shard.z_t,
            layout.TOKENS: shard.tokens,
            layout.KEYS: key_hashes(shard.keys),
        }
        files = {}
        try:
            for kind, name in zip(layout.KINDS, self._names(number)):
                path = self._out / name
                if kind == layout.METADATA:
                    with atomic_write(path) as part:
                        pq.write_table(_table(shard), part)
                else:
                    layout.write_array(path, arrays[kind])
                files[name] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
            record = {"rows": len(shard.keys), "skipped": shard.skipped, "files": files}
            layout.write_json(self._out / RECORDS / f"{number}.json", record)
        except OSError as error:
            raise self._unwritable(error) from None

    def finish(self) -> dict[str, Any]:
        """Write the manifest, when all shards are there; its content.

        Raises:
            UserError: There is no row in any of them.
        """
        shards = [self._record(shard) for shard in range(self._shards)]
        totals = {name: sum(shard[name] for shard in shards) for name in ("rows", "skipped")}
        if totals["rows"] == 0:
            raise UserError("data.source: holds no sample that can be used")
        manifest = {**self._header, **totals, "shards": shards}
        try:
            layout.write_json(self._out / layout.MANIFEST, manifest)
        except OSError as error:
            raise self._unwritable(error) from None
        return manifest

    def _record(self, shard: int) -> dict[str, Any]:
        return json.loads((self._out / RECORDS / f"{shard}.json").read_text())

    def _names(self, shard: int) -> list[str]:
        return [layout.file_of(kind, shard, self._shards) for kind in layout.KINDS]

    def _unwritable(self, error: OSError) -> UserError:
        what = error.strerror or " ".join(str(error).split())  # numpy's own have no number
        full = error.errno in (errno.EIO, errno.ENOSPC, errno.EDQUOT)
        kept = "; finished shards are kept: make room and run the same command" if full else ""
        return UserError(f"--out {self._out}: cannot be written: {what}{kept}")


def verify(path: Path) -> dict[str, Any]:
    """Compare every file of a finished folder with its manifest, which is returned.

    Raises:
        UserError: One is missing or not what was written, or there is no manifest.
    """
    manifest = layout.read_json(path / layout.MANIFEST)
    if manifest is None:
        EmbeddingSource(path)  # which says so, if it is no such folder or not finished
        raise UserError(f"{path}: has no {layout.MANIFEST} to compare with")
    shards = manifest["shards"]
    for number, shard in enumerate(tqdm(shards, desc="verifying", unit="shard", delay=1)):
        for kind in layout.KINDS:
            name = layout.file_of(kind, number, len(shards))
            wanted = shard["files"].get(name, {}).get("sha256")
            if not (path / name).is_file() or file_sha256(path / name) != wanted:
                raise UserError(
                    f"{path / name}: is not what was written; remove it and run the same "
                    "`unclip embed` again, or copy it again"
                )
    EmbeddingSource(path)
    return manifest


def _table(shard: EmbeddingShard) -> pa.Table:
    columns = {"image_path": shard.keys, "caption": shard.captions}
    return pa.table({name: pa.array(texts, pa.string()) for name, texts in columns.items()})


def _leaves(header: dict[str, Any]) -> dict[str, Any]:
    """``{"clip": {"fingerprint": x}}`` as ``{"clip.fingerprint": x}``."""
    found: dict[str, Any] = {}
    for name, value in header.items():
        if isinstance(value, dict):
            found |= {f"{name}.{inner}": leaf for inner, leaf in _leaves(value).items()}
        else:
            found[name] = value
    return found
