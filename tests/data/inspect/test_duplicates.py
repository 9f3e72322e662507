"""Equal and near hashes, against every pair compared."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from unclip.data.inspect.duplicates import NEAR, equal_groups, near_pairs


def neighbours(seed, count=60):
    """Random hashes, each with copies that differ in 0 to 6 bits at random places."""
    rng = np.random.default_rng(seed)
    hashes = []
    for base in rng.integers(0, 2**64, count, dtype=np.uint64):
        for bits in range(7):
            flipped = sum(1 << int(bit) for bit in rng.choice(64, bits, replace=False))
            hashes.append(int(base) ^ flipped)
    return np.array(hashes, dtype=np.uint64)


@pytest.mark.parametrize("seed", range(3))
def test_near_pairs_are_those_that_comparing_all_finds(seed):
    hashes = np.unique(neighbours(seed))
    expected = [
        (a, b)
        for a, b in combinations(range(len(hashes)), 2)
        if (int(hashes[a]) ^ int(hashes[b])).bit_count() <= NEAR
    ]
    assert len(expected) > 100
    assert [tuple(pair) for pair in near_pairs(hashes).tolist()] == expected


def test_near_pairs_in_one_crowded_band():
    hashes = np.arange(64, dtype=np.uint64)  # three bands of all agree
    apart = [(a, b) for a, b in combinations(range(64), 2) if (a ^ b).bit_count() <= NEAR]
    assert [tuple(pair) for pair in near_pairs(hashes).tolist()] == apart


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_to_pair(count):
    hashes = np.arange(count, dtype=np.uint64)
    assert near_pairs(hashes).shape == (0, 2)
    assert equal_groups(hashes) == []


def test_groups_of_equal_hashes_in_the_order_of_their_first():
    hashes = np.array([9, 5, 7, 5, 9, 1, 9], dtype=np.uint64)
    assert [group.tolist() for group in equal_groups(hashes)] == [[0, 4, 6], [1, 3]]
