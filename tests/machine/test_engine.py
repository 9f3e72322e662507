"""A check that crashes, hangs or finds something wrong ends neither the others nor the command."""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path

import pytest

from unclip.machine import engine
from unclip.machine.check import Check, Machine, Row, agreement
from unclip.machine.engine import FAILED, LEFT_OUT, OK, SKIPPED

CHILD = """
import json, os, signal, sys, time
file, *items = sys.argv[1:]
def add(**line):
    with open(file, "a") as opened:
        opened.write(json.dumps(line) + "\\n")
for item in items:
    add(item=item)
    print("working on", item, flush=True)
    if item == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if item == "leaves":
        sys.exit(3)
    if item == "hangs":
        if not os.fork():
            print("child", os.getpid(), flush=True)
        time.sleep(600)
    if item == "raises":
        add(item=item, error="RuntimeError: out of memory")
        sys.exit(1)
    if item == "not here":
        add(item=item, skipped="needs a GPU")
        continue
    ok = None if item == "figure" else item != "wrong"
    add(item=item, rows=[["it", "1", "2", ok, {"x": 1.0}]])
"""


def start(check, file, machine, items):
    return [sys.executable, "-S", "-c", CHILD, str(file), *items]


def ran(tmp_path, *checks, seconds=60.0):
    steps = engine.run(checks, Machine("cuda", True, tmp_path), seconds=seconds, start=start)
    return list(steps)


def check(name, *items, **given):
    return Check(name, "", items, lambda item, machine: [], **given)


def test_what_follows_a_failure_is_measured_all_the_same(tmp_path):
    items = ("a", "killed", "b", "leaves", "raises", "wrong", "not here", "figure", "c")
    steps = ran(tmp_path, check("first", *items), check("second", "d"))
    results = {step.result.item: step.result for step in steps}
    assert [step.result.item for step in steps] == [*items, "d"]
    assert [step.done for step in steps] == list(range(1, 11))
    assert {step.total for step in steps} == {10}
    good = {item for item, result in results.items() if result.state == OK}
    assert good == {"a", "b", "figure", "c", "d"}
    assert (results["not here"].state, results["not here"].reason) == (SKIPPED, "needs a GPU")
    bad = {item for item, result in results.items() if result.state == FAILED}
    assert bad == {"killed", "leaves", "raises", "wrong"}
    assert results["killed"].reason == "the process ended: SIGKILL: working on killed"
    assert results["leaves"].reason == "the process ended: status 3: working on leaves"
    assert results["raises"].reason == "RuntimeError: out of memory"
    assert results["wrong"].reason == "it"
    assert results["wrong"].rows == [Row("it", "1", "2", False, {"x": 1.0})]


def alive(pid):
    """Whether there is such a process, and it is more than a line of the kernel's table."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_what_hangs_is_ended_with_what_it_started(tmp_path):
    steps = ran(tmp_path, check("first", "a", "hangs", "b", seconds=0.5))
    assert [(s.result.item, s.result.state) for s in steps] == [
        ("a", OK),
        ("hangs", FAILED),
        ("b", OK),
    ]
    assert steps[1].result.reason.startswith("hung: ")
    child = int((tmp_path / "first-1.log").read_text().rpartition("child ")[2])
    for _ in range(100):
        if not alive(child):
            return
        time.sleep(0.05)
    pytest.fail("what it started is alive")


def test_what_is_left_when_the_time_is_over_is_named(tmp_path):
    steps = ran(tmp_path, check("first", "a", "hangs", "b"), check("second", "c"), seconds=1.0)
    states = [(step.result.item, step.result.state) for step in steps]
    assert states == [("a", OK), ("hangs", LEFT_OUT), ("b", LEFT_OUT), ("c", LEFT_OUT)]
    assert all("--budget" in step.result.reason for step in steps[1:])
    assert steps[-1].left == 0


def test_what_cannot_run_here_is_skipped_with_its_reason(tmp_path):
    steps = ran(tmp_path, check("first", "a", needs=lambda machine: f"not on {machine.device}"))
    assert [(s.result.state, s.result.reason) for s in steps] == [(SKIPPED, "not on cuda")]


@pytest.mark.parametrize(
    ("found", "ok"),
    [
        ([1.0, 2.0], True),
        ([1.0, 2.001], True),
        ([1.0, 2.1], False),
        ([1.0], False),
        ([1.0, math.nan], False),
    ],
)
def test_curves_agree_to_a_share(found, ok):
    assert agreement("it", found, [1.0, 2.0], 1e-2, "CPU").ok is ok
    assert agreement("it", [], [], 1e-2, "CPU").ok is False
