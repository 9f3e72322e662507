"""Equal and nearly equal 64-bit perceptual hashes, found exactly."""

from __future__ import annotations

import numpy as np

NEAR = 3  # bits; four bands find every pair that differs in fewer than four


def equal_groups(hashes: np.ndarray) -> list[np.ndarray]:
    """Positions of hashes that occur more than once, a group each, in the order of the first.

    Args:
        hashes: ``uint64 [N]``.
    """
    _, which, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    repeated = np.flatnonzero(counts[which] > 1)
    repeated = repeated[np.argsort(which[repeated], kind="stable")]
    if not len(repeated):
        return []
    groups = np.split(repeated, np.flatnonzero(np.diff(which[repeated])) + 1)
    return sorted(groups, key=lambda group: int(group[0]))


def near_pairs(hashes: np.ndarray) -> np.ndarray:
    """Pairs of positions ``int64 [M, 2]`` whose hashes differ in 1 to `NEAR` of 64 bits.

    Two hashes that differ in three bits agree in one of four bands of 16 bits (Norouzi et al.,
    arXiv 1307.2982, section 3), so only those that share a band are compared.

    Args:
        hashes: ``uint64 [N]``, each once.
    """
    pairs = [np.empty((0, 2), dtype=np.int64)]
    for shift in (0, 16, 32, 48):
        band = (hashes >> np.uint64(shift)).astype(np.uint16)
        order = np.argsort(band, kind="stable")
        first, step = np.arange(len(hashes)), 0
        while len(first):  # compare each with the next of its band, then with the one after
            step += 1
            first = first[first + step < len(hashes)]
            first = first[band[order[first]] == band[order[first + step]]]
            a, b = order[first], order[first + step]
            close = np.bitwise_count(hashes[a] ^ hashes[b]) <= NEAR
            pairs.append(np.sort(np.stack([a[close], b[close]], axis=1), axis=1))
    return np.unique(np.concatenate(pairs), axis=0)
