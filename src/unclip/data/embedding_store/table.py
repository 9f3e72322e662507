"""A file of vectors by key that several processes fill and read at once, without a lock.

A record holds its key, the vector and a checksum of both. One that is torn, because its process was
killed or because two wrote it at once, is none: it is made again. A key's record lies where its
hash says, or in one of the next few places.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

_PLACES = 16  # in which a key's record is looked for
_ROOM = 1.5  # places per expected record
_KEY = 16  # bytes


class VectorTable:
    """Vectors of one length by key, in a file that is made where there is none.

    The file is sparse: it takes the room of the records that it has.

    Args:
        path: The file; one of another length holds other vectors.
        length: Numbers of a vector.
        records: How many are expected; when far more come, the last have no place.

    Raises:
        OSError: The file cannot be made, or read.
    """

    def __init__(self, path: Path, *, length: int, records: int):
        self._dtype = record_type(length)
        self._count = places(records)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        size = self._count * self._dtype.itemsize
        if os.fstat(self._file).st_size != size:
            os.ftruncate(self._file, size)
        self._records = np.memmap(path, self._dtype, mode="r", shape=(self._count,))

    def read(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Vectors ``[B, length]`` of keys ``[B, 16]`` (uint8), and which of them are there."""
        found = np.zeros((len(keys), self._dtype["vector"].shape[0]), np.float32)
        there = np.zeros(len(keys), bool)
        start = self._starts(keys)
        left = np.arange(len(keys))
        for step in range(_PLACES):
            at = (start[left] + step) % self._count
            same = (self._records["key"][at] == keys[left]).all(axis=1)
            records = self._records[at[same]]  # a copy: what is checked cannot change any more
            whole = records["sum"] == _sums(records)
            rows = left[same][whole]
            found[rows], there[rows] = records["vector"][whole], True
            left = left[~there[left]]
            if not len(left):
                break
        return found, there

    def write(self, keys: np.ndarray, vectors: np.ndarray) -> None:
        """Keep ``vectors`` ``[B, length]`` of keys ``[B, 16]``.

        Raises:
            OSError: The disk is full, for example.
        """
        records = np.zeros(len(keys), self._dtype)
        records["key"], records["vector"] = keys, vectors
        records["sum"] = _sums(records)
        for record, start in zip(records, self._starts(keys).tolist()):
            for step in range(_PLACES):
                at = (start + step) % self._count
                held = self._records[at : at + 1].copy()
                if held["sum"][0] == _sums(held)[0] and held["key"][0].any():
                    if (held["key"][0] == record["key"]).all():
                        break
                    continue
                os.pwrite(self._file, record.tobytes(), at * self._dtype.itemsize)
                break

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _starts(self, keys: np.ndarray) -> np.ndarray:
        first = np.ascontiguousarray(keys[:, :8]).view("<u8")[:, 0]
        return (first % np.uint64(self._count)).astype(np.int64)


def record_type(length: int) -> np.dtype:
    """How a vector of ``length`` numbers lies in the file."""
    return np.dtype([("key", "u1", _KEY), ("sum", "<u4"), ("vector", "<f4", length)])


def places(records: int) -> int:
    """How many records there is room for where ``records`` are expected."""
    return int(records * _ROOM) + _PLACES


def keys_of(names: Iterable[bytes]) -> np.ndarray:
    """The key of each name: uint8 ``[N, 16]``."""
    digests = [hashlib.blake2b(name, digest_size=_KEY).digest() for name in names]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, _KEY)


def _sums(records: np.ndarray) -> np.ndarray:
    """The checksum of each record's key and vector."""
    return np.array(
        [zlib.crc32(r["vector"].tobytes(), zlib.crc32(r["key"].tobytes())) for r in records],
        np.uint32,
    )
