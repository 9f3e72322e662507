"""What a frozen CLIP said of images and captions before, from disk: no epoch encodes twice.

A batch is looked up on its way to the device, and what is missing is encoded there and kept. A row
of CLIP's output may depend on the batch around it by rounding, so before anything is kept the CLIP
is tried: only batches whose rows have the bits they have in a whole batch are encoded in part.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from unclip.common.errors import UserError
from unclip.common.terminal import say
from unclip.common.types import TextFeatures
from unclip.data.batches import Encoded
from unclip.data.embedding_store.table import VectorTable, keys_of, places, record_type
from unclip.data.files import cache_folder
from unclip.embeddings.clip import Clip, FrozenClip
from unclip.embeddings.words import digest as words_digest

KEY = "data.cache_embeddings"
MOST = 20 * 2**30  # bytes of all that is kept
GIBI = 2**30

Encode = Callable[[Clip, Any, Tensor | slice], Tensor]
"""CLIP's output ``[N, length]`` for some rows of a batch."""


class Reads(NamedTuple):
    """What a stage reads of the frozen CLIP's encodings of a batch."""

    image: bool = False  # z_i
    text: bool = False  # z_t
    features: bool = False  # the caption's, per token, with z_t


class Needed(NamedTuple):
    """What decides the content of the files, and their size."""

    data: str  # a fingerprint of the samples
    images: int  # that are expected
    captions: int
    batch: int  # samples that a process encodes together


class Encodings:
    """Encodings by one CLIP of one data set, in files that processes share.

    Args:
        clip: The CLIP, on its device.
        reads: What is read of it.
        needed: What for.
        home: The folder in which there is one for each CLIP and data set.
        exact: Keep nothing, and raise, where a row's bits depend on its place in the batch.

    Raises:
        UserError: There is no room, or ``exact`` cannot be kept.
    """

    def __init__(self, clip: FrozenClip, reads: Reads, needed: Needed, *, home: Path, exact: bool):
        self._clip = clip.model
        self._batch = needed.batch
        sizes = steady_sizes(self._clip, reads, needed.batch)
        if exact and not sizes:
            raise UserError(f"{KEY}: CLIP's rounding depends on a sample's place in its batch")
        self._sizes = sizes or [needed.batch]
        self.folder = home / _name(clip, needed, self._sizes[0])
        lengths = _lengths(self._clip, reads)
        expected = {"z_i": needed.images, "z_t": needed.captions, "text": needed.captions}
        self.bytes = sum(
            places(expected[kind]) * record_type(length).itemsize
            for kind, length in lengths.items()
        )
        make_room(home, self.bytes, keep=self.folder)
        self._tables = {
            kind: VectorTable(self.folder / f"{kind}.bin", length=length, records=expected[kind])
            for kind, length in lengths.items()
        }
        os.utime(self.folder)
        self._pending: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._full = False

    @property
    def kept(self) -> str:
        """In words."""
        return "encodings of images" if [*self._tables] == ["z_i"] else "encodings"

    def look_up(self, batch: Any) -> Any:
        """A batch on the host, with what is kept of it; `complete` adds the rest."""
        self._pending.clear()
        if len(batch.keys) != self._batch or batch.z_i is not None:
            return batch
        found: dict[str, Tensor] = {}
        for kind, table in self._tables.items():
            keys = _keys(kind, batch)
            vectors, there = table.read(keys)
            found[kind] = torch.from_numpy(vectors)
            self._pending[kind] = (keys, np.flatnonzero(~there))
        return batch._replace(encoded=found)

    @torch.no_grad()
    def complete(self, batch: Any) -> Any:
        """The batch on the device, with all its encodings; new ones are kept."""
        if not self._pending:
            return batch
        found = batch.encoded
        for kind, (keys, missing) in self._pending.items():
            if len(missing):
                rows = torch.from_numpy(missing).to(found[kind].device)
                made = self._encode(kind, batch, rows)
                found[kind][rows] = made
                self._keep(kind, keys[missing], made)
        self._pending.clear()
        return batch._replace(encoded=_unpacked(found, self._clip))

    def _encode(self, kind: str, batch: Any, rows: Tensor) -> Tensor:
        count = len(rows)
        size = next(size for size in self._sizes if size >= count)
        if size == self._batch:  # as it would be without anything kept
            return ENCODERS[kind](self._clip, batch, slice(None))[rows]
        padded = torch.cat([rows, rows[-1:].expand(size - count)])
        return ENCODERS[kind](self._clip, batch, padded)[:count]

    def _keep(self, kind: str, keys: np.ndarray, vectors: Tensor) -> None:
        if self._full:
            return
        try:
            self._tables[kind].write(keys, vectors.cpu().numpy())
        except OSError as error:
            self._full = True
            say(f"{KEY}: {self.folder}: nothing more is kept: {error.strerror}", error=True)


def _z_i(clip: Clip, batch: Any, rows: Tensor | slice) -> Tensor:
    return clip.encode_image(batch.clip_image[rows])


def _z_t(clip: Clip, batch: Any, rows: Tensor | slice) -> Tensor:
    return clip.encode_text(batch.clip_tokens[rows]).z_t


def _text(clip: Clip, batch: Any, rows: Tensor | slice) -> Tensor:
    text: TextFeatures = clip.encode_text(batch.clip_tokens[rows])
    return torch.cat([text.z_t, text.tokens.flatten(1)], dim=1)


ENCODERS: dict[str, Encode] = {"z_i": _z_i, "z_t": _z_t, "text": _text}
"""What is kept, a file each."""


def _kinds(reads: Reads) -> list[str]:
    kinds = ["z_i"] if reads.image else []
    if reads.features:
        return [*kinds, "text"]
    return [*kinds, "z_t"] if reads.text else kinds


def _lengths(clip: Clip, reads: Reads) -> dict[str, int]:
    dim = clip.embed_dim
    lengths = {"z_i": dim, "z_t": dim, "text": dim + clip.context * clip.text_width}
    return {kind: lengths[kind] for kind in _kinds(reads)}


def _keys(kind: str, batch: Any) -> np.ndarray:
    if kind == "z_i":
        return keys_of(key.encode("utf-8", "surrogatepass") for key in batch.keys)
    return keys_of(row.tobytes() for row in batch.clip_tokens.numpy())


def _unpacked(found: dict[str, Tensor], clip: Clip) -> Encoded:
    """Each by itself in memory, as CLIP gives it: sums of what lies otherwise round otherwise."""
    z_i, z_t, text = (found.get(kind) for kind in ENCODERS)
    features = None
    if text is not None:
        z_t, flat = text.split([clip.embed_dim, clip.context * clip.text_width], dim=1)
        features = flat.unflatten(1, (clip.context, clip.text_width))
    return Encoded(
        *(
            None if each is None else each.clone(memory_format=torch.contiguous_format)
            for each in (z_i, z_t, features)
        )
    )


class _Some(NamedTuple):
    """Rows to try a CLIP on."""

    clip_image: Tensor
    clip_tokens: Tensor


@torch.no_grad()
def steady_sizes(clip: Clip, reads: Reads, batch: int) -> list[int]:
    """Batch sizes, ascending, that give a row the bits it has anywhere in a whole ``batch``.

    Those tried are the powers of 2; the last is ``batch`` itself. None where a row's bits depend on
    its place.
    """
    device = clip.mean.device
    rng = torch.Generator().manual_seed(0)
    side = clip.image_size
    images = torch.rand(batch, 3, side, side, generator=rng) * 2 - 1
    words = [f"{k} " * (1 + k % 7) for k in range(batch)]
    some = _Some(images.to(device), clip.tokenize(words).to(device))
    encoders = [ENCODERS[kind] for kind in _kinds(reads)]
    whole = [encode(clip, some, slice(None)) for encode in encoders]
    turned = torch.arange(batch - 1, -1, -1, device=device)
    for encode, expected in zip(encoders, whole):
        if not torch.equal(encode(clip, some, turned)[turned], expected):
            return []

    def steady(size: int) -> bool:
        last = slice(batch - size, batch)
        return all(
            torch.equal(encode(clip, some, last), expected[last])
            for encode, expected in zip(encoders, whole)
        )

    powers = [2**k for k in range(batch.bit_length()) if 2**k < batch]
    return [*filter(steady, powers), batch]


def _name(clip: FrozenClip, needed: Needed, size: int) -> str:
    """A folder for all that decides the bits of an encoding."""
    device = clip.model.mean.device
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    decides = (
        clip.fingerprint + words_digest(clip.model),
        clip.model.embeddings,
        clip.model.image_size,
        needed._replace(batch=size),
        machine,
        torch.__version__,
        torch.get_float32_matmul_precision(),
    )
    return keys_of([repr(decides).encode()])[0].tobytes().hex()[:16]


def _processor() -> str:
    return f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"


def make_room(home: Path, size: int, *, keep: Path) -> None:
    """Remove what was used longest ago until ``size`` bytes more fit.

    Raises:
        UserError: They do not, even then.
    """
    home.mkdir(parents=True, exist_ok=True)
    others = sorted(
        (path for path in home.iterdir() if path.is_dir() and path != keep),
        key=lambda path: path.stat().st_mtime,
    )
    used = {path: _used(path) for path in others}
    total = sum(used.values())
    free = shutil.disk_usage(home).free + (_used(keep) if keep.is_dir() else 0)
    if size > min(MOST, (free + total) // 2):
        raise UserError(
            f"{KEY}: {size / GIBI:.1f} GiB of encodings do not fit: {home} may hold "
            f"{MOST / GIBI:.0f} GiB and half of the {(free + total) / GIBI:.1f} GiB that are there"
        )
    for path in others:
        if total + size <= MOST and size <= free // 2:
            break
        shutil.rmtree(path, ignore_errors=True)
        total, free = total - used[path], free + used[path]


def _used(folder: Path) -> int:
    return sum(p.stat().st_blocks * 512 for p in folder.iterdir())


class CachedData(NamedTuple):
    """What `data.cache_embeddings` depends on, besides the CLIP."""

    how: str  # auto, always or never; auto keeps what is needed twice and cannot change a bit
    needed: Needed
    draws: int  # samples that the whole run draws
    augmented: bool  # images are drawn anew each time

    def encodings(self, clip: FrozenClip, reads: Reads) -> Encodings | None:
        """What is kept by ``clip``, which is on its device; a line says where.

        Raises:
            UserError: ``always`` is not possible.
        """
        if self.how == "never" or not any(reads):
            return None
        images = Reads(image=reads.image)
        if self.how == "auto":
            if self.augmented or self.draws <= self.needed.images:
                return None
            if self.draws < 2 * self.needed.captions:
                reads = images
        found, problems = None, []
        for some in dict.fromkeys((reads, images)):  # captions may be too large, or round otherwise
            if found is None and any(some):
                try:
                    found = self._open(clip, some)
                except (UserError, OSError) as error:
                    problems.append(str(error).removeprefix(f"{KEY}: "))
        if problems and self.how == "always":
            raise UserError(f"{KEY}: {problems[0]}")
        if problems:
            say(f"{KEY}: {problems[0]}; every epoch encodes again", error=True)
        if found is None:
            return None
        say(
            f"{found.kept} by {clip.source} are kept in {found.folder}, at most "
            f"{found.bytes / 2**20:,.0f} MiB ({KEY}={self.how})",
            error=True,
        )
        return found

    def _open(self, clip: FrozenClip, reads: Reads) -> Encodings:
        home, exact = cache_folder("encodings"), self.how == "auto"
        return Encodings(clip, reads, self.needed, home=home, exact=exact)
