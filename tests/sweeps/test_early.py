"""W&B's early termination. Its own package decides the same on 3000 random cases (ADR 9)."""

from __future__ import annotations

import pytest

from unclip.common.errors import UserError
from unclip.sweeps.early import early_stop


def rule(**given):
    return early_stop({"type": "hyperband", **given}, "s.yaml")


@pytest.mark.parametrize(
    ("given", "bands"),
    [
        ({"min_iter": 3}, (3, 9, 27, 81)),
        ({"min_iter": 2, "eta": 1.5}, (2, 3, 4, 6)),
        ({"max_iter": 27, "s": 2}, (3, 9)),
        ({"max_iter": 10, "s": 3, "eta": 2}, (1, 2, 5)),
        ({"max_iter": 5, "s": 9, "eta": 3}, (1,)),
    ],
)
def test_bands(given, bands):
    assert rule(**given).bands[: len(bands)] == bands
    assert ("s" in given) == (len(rule(**given).bands) == len(bands))


def test_before_the_first_band_nothing_is_stopped():
    assert not rule(min_iter=3).stops([9.0, 9.0], [[0.0] * 5, [9.0, 9.0]])


def test_the_best_1_in_eta_go_on():
    at = [[float(k)] for k in range(9)]
    assert [rule(min_iter=1, eta=3).stops(own, at) for own in at] == [False] * 4 + [True] * 5
    # The first floor(9/3) + 1: a trial that is as good as the threshold goes on.


def test_the_first_to_reach_a_band_goes_on():
    assert not rule(min_iter=2).stops([5.0, 5.0], [[5.0, 5.0], [1.0]])


def test_strict_judges_by_the_band_and_else_the_best_so_far_counts():
    own, other = [9.0, 9.0, 0.5], [1.0, 1.0, 1.0]
    assert rule(min_iter=2, strict=True).stops(own, [own, other])
    assert not rule(min_iter=2, strict=False).stops(own, [own, other])


def test_only_the_last_band_that_was_reached_counts():
    own, other = [9.0, 0.1], [1.0, 1.0]
    assert not rule(max_iter=4, s=2, eta=2).stops(own, [own, other])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"min_iter": 0}, "early_terminate.min_iter: 0 must be a whole number from 1"),
        ({"min_iter": 1.5}, "early_terminate.min_iter: 1.5 must be a whole number from 1"),
        ({"max_iter": 9}, "give min_iter, or max_iter and s"),
        ({"min_iter": 1, "max_iter": 9, "s": 1}, "give min_iter, or max_iter and s"),
        ({"min_iter": 1, "eta": 1}, "early_terminate.eta: 1 must be above 1"),
        ({"min_iter": 1, "strict": "yes"}, "early_terminate.strict: must be true or false"),
        ({"min_itr": 1}, "early_terminate.min_itr: unknown key; did you mean 'min_iter'?"),
        ({"min_iter": 1, "type": "envelope"}, "early_terminate.type: must be hyperband"),
    ],
)
def test_what_is_wrong_is_said(given, message):
    with pytest.raises(UserError) as caught:
        rule(**given)
    assert str(caught.value).startswith("s.yaml: early_terminate")
    assert message in str(caught.value)
