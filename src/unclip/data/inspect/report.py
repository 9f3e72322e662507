"""What `unclip data inspect` found, in numbers and keys: its JSON."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from unclip.data.inspect.duplicates import equal_groups, near_pairs
from unclip.data.inspect.scan_samples import FEW, SourceScan
from unclip.data.readers.inventory import inventory_of
from unclip.data.readers.source import Source

BLANK = 3.0  # levels of 255: where no channel deviates more, there is next to nothing to see
SMALL = (64, 256, 1024)  # pixels of the shorter side
LONG = 2.0  # longer side over shorter, beyond which the central square keeps under half
NEAR_LIMIT = 200_000  # different hashes among which near ones are looked for

Report = dict[str, Any]


class Suspects(NamedTuple):
    """Samples that one should look at, by index.

    Attributes:
        blank: ``[N]``.
        groups: Samples of one perceptual hash, blank ones left out.
        near: Pairs of nearly one hash ``[M, 2]``; None where there are too many samples to look.
    """

    blank: np.ndarray
    groups: list[np.ndarray]
    near: np.ndarray | None


def suspects(scanned: SourceScan) -> Suspects:
    """Near-blank images, and those that look the same."""
    blank = scanned.images["contrast"] < BLANK
    index, hashes = scanned.images["index"][~blank], scanned.images["hash"][~blank]
    groups = [index[group] for group in equal_groups(hashes)]
    different, first = np.unique(hashes, return_index=True)
    near = None
    if len(different) <= NEAR_LIMIT:
        near = np.unique(np.sort(index[first][near_pairs(different)], axis=1), axis=0)
    return Suspects(scanned.images["index"][blank], groups, near)


def make_report(
    source: Source, scanned: SourceScan, found: Suspects, *, name: str, held_out: int, context: int
) -> Report:
    """Everything that is said about a source; what has no readable sample is None.

    Args:
        source: Tells keys and captions.
        scanned: All of it, or some samples evenly spread.
        found: Its suspects.
        name: What the source is called.
        held_out: Samples of the whole source that are kept for validation.
        context: Tokens that the CLIP reads.
    """
    images, files = scanned.images, inventory_of(source)
    unreadable = sum(kind.count for kind in scanned.problems.values())
    formats, counts = np.unique(images["format"], return_counts=True)
    return {
        "source": name,
        "fingerprint": source.fingerprint(),
        "files": None if files is None else files.as_dict(),
        "samples": len(source),
        "held_out": held_out,
        "looked_at": len(images) + unreadable,
        "readable": len(images),
        "unreadable": {"count": unreadable, "kinds": _kinds(scanned)},
        "formats": {kind.decode(): int(count) for kind, count in zip(formats, counts)},
        "size": _size(images) if len(images) else None,
        "captions": _captions(source, scanned, context) if len(images) else None,
        "blank": {"count": len(found.blank), "keys": _keys(source, found.blank[:FEW])},
        "duplicates": _duplicates(source, found),
    }


def _kinds(scanned: SourceScan) -> list[Report]:
    kinds = sorted(scanned.problems.items(), key=lambda item: -item[1].count)
    return [
        {"kind": name, "count": kind.count, "keys": kind.keys, "example": kind.example}
        for name, kind in kinds
    ]


def _keys(source: Source, indices: np.ndarray) -> list[str]:
    return [source.key(int(index)) for index in indices]


def _quantiles(values: np.ndarray) -> Report:
    """Least, quartiles and greatest, each a value that occurs."""
    names = ("min", "q25", "median", "q75", "max")
    found = np.quantile(values, (0, 0.25, 0.5, 0.75, 1), method="inverted_cdf")
    return dict(zip(names, found.tolist()))


def _size(images: np.ndarray) -> Report:
    width, height = images["width"].astype(np.int64), images["height"].astype(np.int64)
    shorter, longer = np.minimum(width, height), np.maximum(width, height)
    return {
        "width": _quantiles(width),
        "height": _quantiles(height),
        "shorter_side_below": {str(side): float(np.mean(shorter < side)) for side in SMALL},
        "width_over_height": _quantiles(width / height),
        "longer_than_two_squares": int(np.sum(longer > LONG * shorter)),
    }


def _captions(source: Source, scanned: SourceScan, context: int) -> Report:
    captions = scanned.captions
    _, first, counts = np.unique(captions["hash"], return_index=True, return_counts=True)
    cut = captions["tokens"] > context
    commonest = []
    for which in np.lexsort((first, -counts))[: min(FEW, int(np.sum(counts > 1)))]:
        row = captions[first[which]]
        text = source[int(row["index"])].captions[row["number"]]
        commonest.append({"caption": text, "count": int(counts[which])})
    return {
        "count": len(captions),
        "per_image": _quantiles(scanned.images["captions"]),
        "characters": _quantiles(captions["characters"]),
        "tokens": _quantiles(captions["tokens"]),
        "context": context,
        "cut": {"count": int(cut.sum()), "share": float(cut.mean())},
        "repeated": {
            "share": float(counts[counts > 1].sum() / len(captions)),
            "commonest": commonest,
        },
    }


def _duplicates(source: Source, found: Suspects) -> Report:
    near = found.near
    return {
        "groups": len(found.groups),
        "copies": sum(len(group) - 1 for group in found.groups),
        "keys": [_keys(source, group[:FEW]) for group in found.groups[:FEW]],
        "near_pairs": None if near is None else len(near),
        "near_keys": [] if near is None else [_keys(source, pair) for pair in near[:FEW]],
    }
