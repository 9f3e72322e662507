"""Memory maps of an embeddings folder's shards, and those that are made of its metadata."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from unclip.common.counted import counted
from unclip.common.errors import UserError
from unclip.common.unreadable import why_unreadable
from unclip.data.embedding_store.layout import file_of, write_array

_EXPONENT = {"float16": ("uint16", 0x7C00), "float32": ("uint32", 0x7F800000)}  # inf's and NaN's


def open_shards(
    files: Sequence[Path], *, dtypes: tuple[str, ...], shape: str, counts: list[int] | None = None
) -> list[np.ndarray]:
    """Map each file; nothing is read yet.

    Args:
        files: .npy files of one kind.
        dtypes: What they may be; all are the same.
        shape: As in ``[N, D]``; all have the same D.
        counts: N of each, where it is known.

    Raises:
        UserError: A file is damaged, or not like that.
    """
    arrays = [_open(file, dtypes, shape) for file in files]
    for file, array in zip(files, arrays):
        if (array.dtype, array.shape[1:]) != (arrays[0].dtype, arrays[0].shape[1:]):
            raise UserError(
                f"data.embeddings: {file} is {_described(array)}, {files[0].name} is "
                f"{_described(arrays[0])}; all shards must be alike"
            )
    if counts is not None:
        check_counts(files, [len(array) for array in arrays], counts)
    return arrays


def check_counts(files: Sequence[Path], found: list[int], counts: list[int]) -> None:
    """Refuse shards that are not as many, or as long, as those of the image embeddings."""
    if len(found) != len(counts):
        raise UserError(
            f"data.embeddings: {files[0].parent} has {counted(len(found), 'shard')}, img_emb has "
            f"{len(counts)}; copy the others too"
        )
    for file, here, count in zip(files, found, counts):
        if here != count:
            raise UserError(
                f"data.embeddings: {file} has {counted(here, 'row')}, its shard of img_emb "
                f"has {count}; copy both again"
            )


def open_derived(
    kind: str,
    homes: tuple[Path, Path],
    counts: list[int],
    make: Callable[[int], np.ndarray],
    *,
    dtype: str,
    shape: str,
) -> list[np.ndarray]:
    """Shards that follow from the metadata: made where they are missing, and kept.

    Args:
        kind: Their folder.
        homes: The embeddings folder, and where to keep them when that is read-only.
        counts: Rows of each shard.
        make: A shard's array by number.
        dtype: What it is.
        shape: As of `open_shards`.

    Raises:
        UserError: They cannot be kept, or what was kept is damaged.
    """
    names = [file_of(kind, number, len(counts)) for number in range(len(counts))]
    missing = [
        n for n, name in enumerate(names) if not any((home / name).is_file() for home in homes)
    ]
    home = homes[0] if os.access(homes[0], os.W_OK) else homes[1]
    with tqdm(total=sum(counts[n] for n in missing), desc=kind, unit="row", delay=1) as bar:
        for number in missing:
            try:
                write_array(home / names[number], make(number))
            except OSError as error:
                raise UserError(
                    f"data.embeddings: {home / kind} cannot be written ({error.strerror or error})"
                ) from None
            bar.update(counts[number])
    files = [next(home / name for home in homes if (home / name).is_file()) for name in names]
    return open_shards(files, dtypes=(dtype,), shape=shape, counts=counts)


def usable_rows(z: np.ndarray) -> np.ndarray:
    """Which rows of ``[B, D]`` are embeddings: finite, and not zero (or next to it) throughout.

    By their bits, ten times as fast as isfinite.
    """
    kind, exponent = _EXPONENT[z.dtype.name]
    largest = (z.view(kind) & exponent).max(axis=1)
    return (largest > 0) & (largest < exponent)


def flaw(*z: np.ndarray) -> str:
    """What is wrong with a row of which one of ``z`` ``[1, D]`` is not usable, for a message."""
    finite = all(np.isfinite(each).all() for each in z)
    return "is all zeros" if finite else "is not finite"


def _open(path: Path, dtypes: tuple[str, ...], shape: str) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a damaged header can raise nearly anything
        raise UserError(
            f"data.embeddings: {path} cannot be read: {why_unreadable(error)}; copy it again"
        ) from None
    if not isinstance(array, np.ndarray):
        raise UserError(f"data.embeddings: {path} is an .npz; save one array, as .npy")
    if array.dtype not in dtypes or array.ndim != shape.count(",") + 1:
        expected = f"{' or '.join(dtypes)} {shape}"
        raise UserError(f"data.embeddings: {path} is {_described(array)}, expected {expected}")
    return np.asarray(array)  # plain: indexing a np.memmap costs more


def _described(array: np.ndarray) -> str:
    return f"{array.dtype} {list(array.shape)}"
