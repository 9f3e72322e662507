"""Two runs that end alike and were apart on the way."""

from __future__ import annotations

from unclip.sharing.compare import DIFFERENT, MetricRow, compare_series


def test_curves_that_meet_again_were_different():
    then, now = {"loss": {0: 4.0, 5: 2.0, 9: 1.0}}, {"loss": {0: 4.0, 5: 1.0, 9: 1.0}}
    assert compare_series(then, now) == [MetricRow("loss", 1.0, 1.0, 0.5, 5, DIFFERENT)]
