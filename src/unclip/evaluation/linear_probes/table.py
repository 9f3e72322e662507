"""The table that a user brings: images or embeddings, with ratings or with choices.

Columns, in CSV or parquet: ``image`` and ``rating``; or ``first``, ``second`` and ``choice``
(first, second or tie; a tie is left out). Images are files, named relative to the table. A parquet
may have ``embedding``, ``first_embedding`` and ``second_embedding`` in their place: lists of
numbers, made by the CLIP that is named.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from unclip.common.errors import UserError
from unclip.data import files
from unclip.data.decode import BadSample, decode_image
from unclip.data.transforms import Square, to_tensor
from unclip.embeddings.clip import FrozenClip
from unclip.evaluation.linear_probes.fit import check_pairs, check_ratings

BATCH = 32  # images embedded at a time


@dataclass(frozen=True)
class RatingTable:
    """R ratings of N images."""

    z: Tensor  # [N, D], unit length
    image: Tensor  # [R], which of z
    rating: Tensor  # [R], float64


@dataclass(frozen=True)
class PairTable:
    """Of P pairs among N images."""

    z: Tensor  # [N, D], unit length
    first: Tensor  # [P], which of z
    second: Tensor  # [P]
    chosen: Tensor  # [P], 1 where the first was preferred
    ties: int  # left out


def read_table(path: Path, kind: str, clip: FrozenClip, device: torch.device) -> Any:
    """A `RatingTable` for ``aesthetics``, a `PairTable` for ``preference``.

    Raises:
        UserError: it cannot be read, lacks a column, or a row cannot be used; names the row.
    """
    table = _opened(path)
    if not table.num_rows:
        raise UserError(f"{path}: has no rows")
    if kind == "aesthetics":  # what is cheap to check comes first
        rating = torch.tensor([_rating(path, row, v) for row, v in _rows(path, table, "rating")])
        _check(path, check_ratings, rating.double())
        z, (at,) = _embedded(path, table, [("image", "embedding")], clip, device)
        return RatingTable(z, at, rating.double())
    sides = [("first", "first_embedding"), ("second", "second_embedding")]
    choices = [_choice(path, row, v) for row, v in _rows(path, table, "choice")]
    _check(path, check_pairs, sum(choice is not None for choice in choices))
    z, (first, second) = _embedded(path, table, sides, clip, device)
    kept = torch.tensor([k for k, choice in enumerate(choices) if choice is not None]).long()
    chosen = torch.tensor([choice for choice in choices if choice is not None]).double()
    return PairTable(z, first[kept], second[kept], chosen, len(choices) - len(kept))


def _check(path: Path, check: Callable[[Any], None], value: Any) -> None:
    try:
        check(value)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def _opened(path: Path) -> pa.Table:
    try:
        if path.suffix.lower() == ".parquet":
            return pa.parquet.read_table(path)
        # Names of files are text, also where they look like numbers or dates.
        names = dict.fromkeys(("image", "first", "second", "choice"), pa.string())
        return pa.csv.read_csv(path, convert_options=pa.csv.ConvertOptions(column_types=names))
    except FileNotFoundError:
        raise UserError(f"{path}: no such table") from None
    except (pa.ArrowInvalid, OSError) as error:
        first = " ".join(str(error).split())[:150]
        raise UserError(f"{path}: is neither CSV nor parquet: {first}") from None


def _rows(path: Path, table: pa.Table, column: str) -> list[tuple[int, Any]]:
    if table.column_names.count(column) != 1:
        told = ", ".join(table.column_names)[:150] or "none"
        several = f"has {table.column_names.count(column)} columns {column!r}; keep one"
        none = f"has no column {column!r}, only {told}"
        raise UserError(f"{path}: {several if column in table.column_names else none}")
    return list(enumerate(table.column(column).to_pylist(), 1))


def _rating(path: Path, row: int, value: Any) -> float:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not np.isfinite(value):
        raise UserError(f"{path}: row {row}: rating {value!r} is not a number")
    return float(value)


def _choice(path: Path, row: int, value: Any) -> float | None:
    known = {"first": 1.0, "second": 0.0, "tie": None}
    if not isinstance(value, str) or value not in known:
        raise UserError(f"{path}: row {row}: choice {value!r} must be first, second or tie")
    return known[value]


def _embedded(
    path: Path,
    table: pa.Table,
    sides: list[tuple[str, str]],
    clip: FrozenClip,
    device: torch.device,
) -> tuple[Tensor, list[Tensor]]:
    """Embeddings of all different images, and of each side which of them its rows are."""
    stored = all(embedding in table.column_names for _, embedding in sides)
    columns = [_rows(path, table, side[stored]) for side in sides]
    if stored:
        keys = [[_vector(path, row, v, clip).tobytes() for row, v in side] for side in columns]
    else:
        keys = [[_name(path, row, v).encode() for row, v in side] for side in columns]
    number = {key: k for k, key in enumerate(dict.fromkeys(k for side in keys for k in side))}
    if stored:
        z = torch.from_numpy(np.stack([np.frombuffer(key) for key in number]))
    else:
        z = _encoded(path, [key.decode() for key in number], clip, device)
    return F.normalize(z, dim=1), [torch.tensor([number[k] for k in side]) for side in keys]


def _name(path: Path, row: int, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise UserError(
            f"{path}: row {row}: {str(value)[:50]!r} is not the name of an image's file"
        )
    return value


def _vector(path: Path, row: int, value: Any, clip: FrozenClip) -> np.ndarray:
    dim = clip.model.embed_dim
    try:
        x = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        x = np.empty(0)
    if x.shape != (dim,) or not np.isfinite(x).all() or not x.any():
        raise UserError(
            f"{path}: row {row}: the embedding is not {dim} finite numbers, as {clip.source} makes"
        )
    return x


@torch.no_grad()
def _encoded(path: Path, names: list[str], clip: FrozenClip, device: torch.device) -> Tensor:
    model = clip.model.to(device)
    square, found = Square(sizes=(model.image_size,)), []
    for first in tqdm(range(0, len(names), BATCH), "embedding", unit="batch", delay=1):
        images = []
        for name in names[first : first + BATCH]:
            try:
                data = files.read(str(path.parent / name))
                images.append(square(decode_image(data, where=name), Random(0))[0])
            except (UserError, BadSample) as error:
                line = str(error).removeprefix("data.source: ")
                raise UserError(f"{path}: image {line}") from None
        found.append(model.encode_image(to_tensor(images).to(device)).double().cpu())
    return torch.cat(found)
