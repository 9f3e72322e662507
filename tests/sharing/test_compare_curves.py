"""Two runs that end alike and were apart on the way."""

from __future__ import annotations

import pytest

from unclip.sharing.compare import DIFFERENT, IDENTICAL, MetricRow, compare_series
from unclip.sharing.resumes import lengths, unrecorded


def test_curves_that_meet_again_were_different():
    then, now = {"loss": {0: 4.0, 5: 2.0, 9: 1.0}}, {"loss": {0: 4.0, 5: 1.0, 9: 1.0}}
    assert compare_series(then, now) == [MetricRow("loss", 1.0, 1.0, 0.5, 5, DIFFERENT)]


def test_a_step_that_one_run_alone_has_counts_unless_a_resume_explains_it():
    then, now = {"loss": {0: 4.0, 5: 2.0, 9: 1.0}}, {"loss": {0: 4.0, 9: 1.0}}
    (row,) = compare_series(then, now)
    assert (row.verdict, row.first) == (DIFFERENT, 5)
    resumed = {"resumed": [{"step": 5, "created": "today"}]}
    for pair in ((then, now), (now, then)):
        (row,) = compare_series(*pair, unrecorded=unrecorded([resumed, {}], log_every=2))
        assert row == MetricRow("loss", 1.0, 1.0, 0.0, None, IDENTICAL)
    other = {"loss": {5: 2.0}}  # nothing in common: nothing can be said for it
    (row,) = compare_series(other, now, unrecorded=unrecorded([resumed], log_every=99))
    assert row.verdict == DIFFERENT


def test_which_steps_a_resume_explains():
    """Those of the interrupted window; all before, where it changed what is recorded."""
    plain = {"resumed": [{"step": 7}]}
    changed = {"resumed": [{"step": 7, "changed": {"trainer.val_every": [4, 2]}}]}
    asked = range(12)
    assert [s for s in asked if unrecorded([plain], log_every=2)(s)] == [7, 8, 9]
    assert [s for s in asked if unrecorded([changed], log_every=2)(s)] == list(range(10))
    assert not any(map(unrecorded([{}], log_every=2), asked))


def extension(step, then, now):
    return {"step": step, "changed": {"trainer.max_steps": [then, now]}}


def test_an_extended_run_is_repeated_by_the_ends_that_it_had():
    ends = [extension(4, 4, 6), {"step": 5}, extension(6, 6, 9)]
    assert lengths({"resumed": ends}, 9) == [4, 6, 9]
    assert lengths({"resumed": [extension(3, 4, 9)]}, 9) == [9]  # it was stopped, not ended
    assert lengths({}, 9) == [9]


@pytest.mark.parametrize(
    "listed",
    [
        {},
        [None, 3, {}, {"step": "4"}, {"step": True}],
        [extension(k, k, 9) for k in (0, -1, 9, 10)],
        [{"step": 4, "changed": {"trainer.max_steps": 4}}, {"step": 4, "changed": []}],
    ],
)
def test_a_stranger_may_have_written_of_resumes_what_he_will(listed):
    assert lengths({"resumed": listed}, 9) == [9]
    assert len(lengths({"resumed": [extension(k, k, 999) for k in range(1, 999)]}, 999)) <= 101
