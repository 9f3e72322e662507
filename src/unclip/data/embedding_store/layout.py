"""The files of an embeddings folder, which are those of clip-retrieval and a few of our own.

``KIND/KIND_N`` holds shard N of one kind of data, a row per caption of an image.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from unclip.common.atomic import atomic_write
from unclip.common.counted import counted
from unclip.common.errors import UserError

# As clip-retrieval writes them.
IMAGES = "img_emb"  # float16 or float32 [N, D], unit or raw as the manifest says
TEXTS = "text_emb"  # the same
METADATA = "metadata"  # parquet: image_path, caption
# Ours.
TOKENS = "tokens"  # uint16 [N, context], CLIP's byte pairs
KEYS = "keys"  # uint64 [N], `key_hashes` of image_path
KINDS = (IMAGES, TEXTS, METADATA, TOKENS, KEYS)


def file_of(kind: str, shard: int, shards: int) -> str:
    """The path, inside the folder, of one of ``shards`` shards; clip-retrieval pads the number."""
    ending = "parquet" if kind == METADATA else "npy"
    return f"{kind}/{kind}_{shard:0{len(str(shards))}d}.{ending}"


def files_of(folder: Path, kind: str) -> list[Path]:
    """The shards of one kind in order, whether their numbers are padded or not.

    Raises:
        UserError: A number is missing or there twice.
    """
    found: dict[int, Path] = {}
    for path in sorted((folder / kind).glob(f"{kind}_*")):
        match = re.fullmatch(rf"{kind}_(\d+)\.(npy|parquet)", path.name)
        if match is not None:
            if (number := int(match[1])) in found:
                raise UserError(
                    f"data.embeddings: {found[number]} and {path} are both shard {number}; "
                    "remove one of them"
                )
            found[number] = path
    for number in range(len(found)):
        if number not in found:
            raise UserError(
                f"data.embeddings: {folder / kind} has {counted(len(found), 'shard')}, but none of "
                f"number {number}; copy it again"
            )
    return [found[number] for number in range(len(found))]


def write_array(path: Path, array: np.ndarray) -> None:
    """Write a .npy, all at once."""
    with atomic_write(path) as part, part.open("wb") as file:
        np.save(file, array, allow_pickle=False)
