"""Writing an embeddings folder so that an interrupted run goes on where it was; verifying one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from unclip.common.atomic import atomic_write
from unclip.common.errors import UserError
from unclip.common.hashing import file_sha256
from unclip.data.embedding_store import layout
from unclip.data.embedding_store.source import EmbeddingSource
from unclip.data.keys import key_hashes
from unclip.data.shard_folder import MANIFEST, ShardFolder, read_json
from unclip.embeddings.config import UNIT


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


class Writer(ShardFolder):
    """The folder of `unclip embed`."""

    command = "unclip embed"
    subject = "clip"
    held = "rows"
    before = {"embeddings": UNIT}

    def folders(self) -> list[str]:
        """One for each kind of data."""
        return [*layout.KINDS]

    def made_later(self) -> list[str]:
        """Tokens cut to a CLIP's context, made when the folder is read."""
        return [f"{layout.TOKENS}_*"]

    def names(self, number: int) -> list[str]:
        """A file for each kind of data."""
        return [layout.file_of(kind, number, self.shards) for kind in layout.KINDS]

    def write_files(self, number: int, content: EmbeddingShard) -> dict[str, Any]:
        """Write the shard's files; how many rows it has, and how many samples have none."""
        arrays = {
            layout.IMAGES: content.z_i,
            layout.TEXTS: content.z_t,
            layout.TOKENS: content.tokens,
            layout.KEYS: key_hashes(content.keys),
        }
        for kind, name in zip(layout.KINDS, self.names(number)):
            if kind == layout.METADATA:
                with atomic_write(self.out / name) as part:
                    pq.write_table(_table(content), part)
            else:
                layout.write_array(self.out / name, arrays[kind])
        return {"rows": len(content.keys), "skipped": content.skipped}

    def complete(self, manifest: dict[str, Any]) -> None:
        """Refuse a source without a row."""
        if not manifest.get("rows"):
            raise UserError("data.source: holds no sample that can be used")


def verify(path: Path) -> dict[str, Any]:
    """Compare every file of a finished folder with its manifest, which is returned.

    Raises:
        UserError: One is missing or not what was written, or there is no manifest.
    """
    manifest = read_json(path / MANIFEST, "unclip embed")
    if manifest is None:
        EmbeddingSource(path)  # which says so, if it is no such folder or not finished
        raise UserError(f"{path}: has no {MANIFEST} to compare with")
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
