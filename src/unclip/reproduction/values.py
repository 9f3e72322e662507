"""What is made of the records of a caption: one number, or two of which a ratio is taken.

A record is what a judge noted of one caption (`unclip.reproduction.judges`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import Any

import numpy as np

from unclip.common.images import Array

Record = Mapping[str, Any]
OPEN = ("background", "place", "size")
"""What a caption of one object may leave open."""


@dataclass(frozen=True)
class Value:
    """How captions' records become rows, and rows one number."""

    title: str
    row: Callable[[Record], Sequence[float]]
    reduce: Callable[[Array], float] = lambda rows: float(rows.mean())
    share: bool = False  # a row is 0 or 1


def field_of(name: str) -> Callable[[Record], Sequence[float]]:
    """A number that the judge noted as such."""
    return lambda record: [float(record[name])]


def _right(record: Record) -> Sequence[float]:
    return [sum(image["right"] for image in record["images"]) / len(record["images"])]


def _stated(record: Record) -> Sequence[float]:
    return [sum(image["stated"] for image in record["images"]) / len(record["images"])]


def entropy(record: Record) -> Sequence[float]:
    """Entropy (nats) of what the caption leaves open, over its images: 0 if all are alike.

    With the Miller-Madow correction of (kinds - 1) / 2 n, for few images see few kinds.
    """
    left_open = [name for name in OPEN if name not in record["said"]]
    seen = [tuple(image["seen"].get(name) for name in left_open) for image in record["images"]]
    counts = [seen.count(kind) for kind in set(seen)]
    n = len(seen)
    return [-sum(c / n * log(c / n) for c in counts) + (len(counts) - 1) / (2 * n)]


def _binding(record: Record) -> Sequence[float]:
    """(right, right or exchanged) of pairs of objects."""
    outcomes = [image["binding"] for image in record["images"]]
    right = outcomes.count("right")
    return [right, right + outcomes.count("exchanged")]


def _ratio(rows: Array) -> float:
    total = rows[:, 1].sum()
    return float(rows[:, 0].sum() / total) if total else 0.5


PLACES = 9
SIZES = ("small", "large")


def _category(record: Record) -> Sequence[float]:
    """The first image's place and size as one number, and the scene's; -1 where nothing is seen."""
    seen, scene = record["images"][0]["seen"], record["scene"]
    return [_number(seen), _number(scene)]


def _number(what: Record) -> float:
    if not what.get("place"):
        return -1.0
    return float(_PLACE_NAMES.index(what["place"]) * len(SIZES) + SIZES.index(what["size"]))


_PLACE_NAMES = (
    *("top left", "top", "top right", "left", "middle", "right"),
    *("bottom left", "bottom", "bottom right"),
)


def total_variation(rows: Array) -> float:
    """Half the summed difference of two distributions of categories, those of the two columns."""
    kinds = np.arange(-1, PLACES * len(SIZES))
    drawn, true = ((rows[:, k, None] == kinds).mean(0) for k in (0, 1))
    return float(np.abs(drawn - true).sum() / 2)


def effective_rank(rows: Array) -> float:
    """Exp of the entropy of the covariance's eigenvalues (Roy and Vetterli, EUSIPCO 2007)."""
    variances = np.linalg.svd(rows - rows.mean(0), compute_uv=False) ** 2
    shares = variances[variances > 0] / variances.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


VALUES: dict[str, Value] = {
    "right": Value("share right in colour and shape", _right, share=True),
    "stated": Value("share right in all that the caption states", _stated, share=True),
    "diversity": Value("entropy of what the caption leaves open, nats", entropy),
    "binding": Value("share bound rightly of those with both objects", _binding, _ratio),
    "distance": Value("distance of places and sizes to the data's", _category, total_variation),
    "cosine": Value("cosine to the true z_i", field_of("cosine")),
    "dot": Value("z_i · z_t", field_of("dot")),
    "rank": Value("effective rank of z_i", lambda record: record["z_i"], effective_rank),
    "label": Value("probability of the true label", field_of("label")),
    "psnr": Value("PSNR, dB", field_of("psnr")),
    "kid": Value("KID to held-out images", field_of("kid")),
    "vendi": Value("Vendi score of a caption's images", field_of("vendi")),
}
