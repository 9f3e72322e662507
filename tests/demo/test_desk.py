"""One job at a time, and nobody cancels another's."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Event

import pytest

from unclip.demo.desk import Cancelled, Desk


def ignore(done: int, total: int) -> None:
    pass


def test_a_job_is_told_on_and_its_result_returned():
    seen = []
    found = Desk().work("ann", lambda step: step(1, 2) or "done", lambda *at: seen.append(at))
    assert (found, seen) == ("done", [(1, 2)])


def steps_until_cancelled(desk: Desk, by: str | None) -> int:
    """Of a job of ann's of five steps, cancelled after the second."""
    seen = []

    def job(step):
        for k in range(1, 6):
            if k == 3:
                desk.cancel(by)
            step(k, 5)

    with suppress(Cancelled):
        desk.work("ann", job, lambda done, total: seen.append(done))
    return len(seen)


def test_cancel_stops_before_the_next_step():
    assert steps_until_cancelled(Desk(), "ann") == 2


@pytest.mark.parametrize("other", ["bob", None])
def test_another_cannot_cancel(other):
    assert steps_until_cancelled(Desk(), other) == 5


def test_a_job_of_nobody_cannot_be_cancelled():
    desk = Desk()

    def job(step):
        desk.cancel(None)
        step(1, 1)
        return "done"

    assert desk.work(None, job, ignore) == "done"


def test_cancel_of_a_finished_job_does_nothing_to_the_next():
    desk = Desk()
    desk.work("ann", lambda step: step(1, 1), ignore)
    desk.cancel("ann")
    assert steps_until_cancelled(desk, None) == 5


def test_a_failed_job_leaves_the_desk_free():
    desk = Desk()
    with pytest.raises(ValueError, match="bad"):
        desk.work("ann", lambda step: int("bad"), ignore)
    assert desk.work("bob", lambda step: "done", ignore) == "done"


def test_jobs_take_turns():
    desk, begun, go = Desk(), Event(), Event()
    order = []

    def first(step):
        begun.set()
        go.wait()
        order.append("first")

    with ThreadPoolExecutor(2) as pool:
        pool.submit(desk.work, "ann", first, ignore)
        begun.wait()
        waiting = pool.submit(desk.work, "bob", lambda step: order.append("second"), ignore)
        go.set()
        waiting.result()
    assert order == ["first", "second"]
