"""Krippendorff's alpha against published figures and limits."""

from __future__ import annotations

import random

import pytest

from unclip.evaluation.statistics.agreement import agreement


def test_krippendorffs_own_example():
    """Four observers, 12 units, missing data (Computing Krippendorff's alpha, 2011, example C)."""
    observers = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    ]
    units = [[one for one in unit if one is not None] for unit in zip(*observers)]
    found = agreement(units)
    assert found.alpha == pytest.approx(0.743, abs=5e-4)
    assert found.units == 11


def test_two_observers_of_two_values():
    """The same paper's example A: 10 units, alpha 0.095."""
    a = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0]
    b = [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    found = agreement(list(zip(a, b)))
    assert found.alpha == pytest.approx(0.095, abs=5e-4)
    assert found.same == 0.6


def test_limits():
    assert agreement([["a", "a"], ["b", "b"]]).alpha == 1
    assert agreement([["a", "a"], ["a", "a"]]) == (None, 1.0, 2)
    assert agreement([["a"], []]) == (None, None, 0)
    rng = random.Random(0)
    coins = [[rng.choice("ab") for _ in range(3)] for _ in range(20_000)]
    assert abs(agreement(coins).alpha) < 0.02
