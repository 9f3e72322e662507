"""How alike two runs are, on numbers whose answer is known."""

from __future__ import annotations

import math

import torch

from unclip.sharing.compare import (
    CLOSE,
    DIFFERENT,
    IDENTICAL,
    TIMED,
    UNKNOWN,
    MetricRow,
    compare_series,
    compare_values,
    compare_weights,
    overall,
    series_of,
)


def test_curves_are_compared_step_by_step():
    then = series_of([{"step": s, "loss": 2.0, "time": s} for s in (0, 10, 20)])
    now = series_of([{"step": s, "loss": 2.0 if s < 10 else 2.01, "time": -s} for s in (0, 10, 20)])
    (row,) = compare_series(then, now, rtol=0.01)
    assert row == MetricRow("loss", 2.0, 2.01, (2.01 - 2.0) / 2.01, 10, CLOSE)
    assert compare_series(then, now, rtol=0.001)[0].verdict == DIFFERENT
    assert compare_series(then, then) == [MetricRow("loss", 2.0, 2.0, 0.0, None, IDENTICAL)]


def test_a_missing_step_or_metric_is_a_difference():
    then, now = series_of([{"step": 0, "a": 1.0}, {"step": 5, "a": 1.0}]), {"a": {0: 1.0}}
    assert compare_series(then, now) == [MetricRow("a", 1.0, 1.0, None, 5, DIFFERENT)]
    assert compare_values({"a": 1.0}, {}) == [MetricRow("a", 1.0, None, None, None, DIFFERENT)]
    assert compare_values({}, {"a": 1.0}) == [MetricRow("a", None, 1.0, None, None, DIFFERENT)]


def test_zero_and_the_other_sign_are_apart():
    assert compare_values({"a": 0.0}, {"a": 0.0})[0].verdict == IDENTICAL
    assert compare_values({"a": 0.0}, {"a": 1e-9})[0].distance == 1.0
    assert compare_values({"a": 1.0}, {"a": -1.0})[0].distance == 2.0


def test_what_tells_of_the_machine_is_not_compared():
    assert compare_values(dict.fromkeys(TIMED, 1.0), dict.fromkeys(TIMED, 2.0)) == []


def test_what_had_no_samples_is_not_compared():
    assert compare_values({}, {"loss_q3": math.nan}) == []


def test_weights_are_apart_by_their_relative_norm():
    then = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([[4.0]])}
    now = {"a": torch.tensor([3.0, 0.03]), "b": torch.tensor([[4.04]])}
    row = compare_weights("weights", then, now, same=False, rtol=0.02)
    assert row.distance is not None
    assert math.isclose(row.distance, 0.05 / 5, rel_tol=1e-6)
    assert row.verdict == CLOSE
    assert compare_weights("weights", then, now, same=False, rtol=0.001).verdict == DIFFERENT
    assert compare_weights("weights", then, then, same=False).verdict == IDENTICAL
    assert compare_weights("weights", None, now, same=True).verdict == IDENTICAL
    assert compare_weights("weights", None, now, same=False).verdict == UNKNOWN
    assert compare_weights("weights", {"a": now["a"]}, now, same=False).verdict == DIFFERENT
    broken = {**now, "b": torch.tensor([[math.nan]])}
    assert compare_weights("weights", then, broken, same=False).verdict == DIFFERENT


def test_the_worst_verdict_counts():
    rows = {
        v: MetricRow("x", None, None, None, None, v) for v in (IDENTICAL, CLOSE, DIFFERENT, UNKNOWN)
    }
    assert overall([rows[IDENTICAL]]) == IDENTICAL
    assert overall([rows[IDENTICAL], rows[CLOSE]]) == CLOSE
    assert overall([rows[CLOSE], rows[DIFFERENT], rows[UNKNOWN]]) == DIFFERENT
    assert overall([rows[IDENTICAL], rows[UNKNOWN]]) == CLOSE  # the bits are not the same
