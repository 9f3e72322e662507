"""Runs checks, each in a process of its own: none can end the others, or last for ever."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from unclip.common.processes import interruptible, starting
from unclip.machine.check import Check, Machine, Row

POLL = 0.1  # seconds between two looks at the process
SLOW = 5.0  # a CPU may take so many times as long as a GPU

OK, FAILED, SKIPPED, LEFT_OUT = "ok", "FAILED", "skipped", "left out"

Start = Callable[[Check, Path, Machine, Sequence[str]], list[str]]
"""The command of a check's process, of its file and the items to measure."""


@dataclass
class Result:
    """What became of an item."""

    check: str
    item: str
    state: str  # OK | FAILED | SKIPPED | LEFT_OUT
    rows: list[Row] = field(default_factory=list)
    reason: str = ""  # where it is not OK
    seconds: float = 0.0


class Progress(NamedTuple):
    """How far the work is."""

    result: Result
    done: int
    total: int
    left: float  # seconds of the budget


def command(check: Check, file: Path, machine: Machine, items: Sequence[str]) -> list[str]:
    """See `unclip.machine.child`."""
    child = [sys.executable, "-m", "unclip.machine.child", check.name, str(file), machine.device]
    return [*child, "small" if machine.small else "large", str(machine.folder), *items]


def run(
    checks: Sequence[Check], machine: Machine, *, seconds: float, start: Start = command
) -> Iterator[Progress]:
    """Run ``checks`` in their order for at most ``seconds``; what is over by then is left out."""
    ends, done = time.monotonic() + seconds, 0
    total = sum(len(check.items) for check in checks)
    with interruptible("nothing is saved; run the command again"):
        for check in checks:
            for result in _results(check, machine, ends, start):
                done += 1
                yield Progress(result, done, total, max(0.0, ends - time.monotonic()))


def _results(check: Check, machine: Machine, ends: float, start: Start) -> Iterator[Result]:
    left = list(check.items)
    if reason := check.needs(machine):
        yield from (Result(check.name, item, SKIPPED, reason=reason) for item in left)
        return
    number = 0
    while left and time.monotonic() < ends:
        number += 1
        for result in _process(check, machine, left, number, ends, start):
            left.remove(result.item)
            yield result
    for item in left:
        yield Result(check.name, item, LEFT_OUT, reason="the time was over; give a longer --budget")


def _process(
    check: Check, machine: Machine, items: Sequence[str], number: int, ends: float, start: Start
) -> Iterator[Result]:
    """Results of one process, until it ends: of at least one item, or the time is over."""
    limit = check.seconds * (1.0 if machine.gpu else SLOW)
    file = machine.folder / f"{check.name}-{number}.jsonl"
    log = file.with_suffix(".log")
    file.touch()
    with log.open("wb") as output, starting() as prepare:
        process = subprocess.Popen(
            start(check, file, machine, items),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # what it starts can be ended with it
            preexec_fn=prepare,
        )
    found, left = _Lines(file), list(items)
    current, began = items[0], time.monotonic()
    try:
        while left:
            ended = process.poll()  # before the lines: those of its end are there then
            for line in found.new():
                current = line["item"]
                if len(line) == 1:
                    continue
                took, began = time.monotonic() - began, time.monotonic()
                left.remove(current)
                yield _result(check, line, took)
            took = time.monotonic() - began
            reason = ""
            if ended is not None:
                reason = _death(ended, log)
            elif took > limit:
                reason = f"hung: no end after {limit:.0f} s"
            if reason and current in left:
                yield Result(check.name, current, FAILED, [], reason, took)
            if reason or time.monotonic() >= ends:
                return
            time.sleep(POLL)
    finally:
        _kill(process)


def _result(check: Check, line: dict[str, Any], took: float) -> Result:
    """What a process says of an item."""
    item, rows = line["item"], [Row(*row) for row in line.get("rows", [])]
    if "skipped" in line:
        return Result(check.name, item, SKIPPED, rows, line["skipped"], took)
    wrong = [row.what for row in rows if row.ok is False]
    reason = line.get("error") or ", ".join(wrong)
    return Result(check.name, item, FAILED if reason else OK, rows, reason, took)


class _Lines:
    """The whole lines of a file that grows."""

    def __init__(self, file: Path):
        self._file, self._read = file, 0

    def new(self) -> list[dict[str, Any]]:
        """Those since the last call."""
        with self._file.open("rb") as opened:
            opened.seek(self._read)
            text = opened.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        return [json.loads(line) for line in whole.splitlines()]


def _death(status: int, log: Path) -> str:
    """How a process ended, and the last it said."""
    how = signal.Signals(-status).name if status < 0 else f"status {status}"
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f"the process ended: {how}" + (f": {lines[-1].strip()[:200]}" if lines else "")


def _kill(process: subprocess.Popen) -> None:
    """End a process and what it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
