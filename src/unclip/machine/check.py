"""What a check is, and what it finds. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


class Machine(NamedTuple):
    """What is checked, and how."""

    device: str  # cpu | cuda
    small: bool  # networks that a CPU trains in seconds in the place of those that fill a GPU
    folder: Path  # for what checks leave for each other

    @property
    def gpu(self) -> bool:
        """Whether it is a GPU."""
        return self.device != "cpu"


class Unavailable(Exception):
    """An item cannot be measured on this machine, which is no fault of it."""


class Row(NamedTuple):
    """A line of the table."""

    what: str
    measured: str
    expected: str = ""  # empty where nothing is: the figure is for the reader
    ok: bool | None = None  # None where nothing is expected
    numbers: dict[str, float] = {}  # the same for programs


@dataclass(frozen=True)
class Check:
    """Things that are measured one after another in one process of their own.

    When one of them fails, the process ends, and the next one begins in a new process.
    """

    name: str
    about: str
    items: Sequence[str]
    measure: Callable[[str, Machine], list[Row]]
    seconds: float = 120.0  # after which an item is taken to hang, at least
    after: tuple[str, ...] = ()  # checks whose files it reads
    needs: Callable[[Machine], str | None] = lambda machine: None  # why it cannot run here


def needs_gpu(machine: Machine) -> str | None:
    """Of checks whose question only a GPU answers."""
    return None if machine.gpu else "needs a GPU"


def agreement(
    what: str, found: Sequence[float], expected: Sequence[float], within: float, of: str
) -> Row:
    """Whether two curves agree: each value to a share ``within`` of its size."""
    worst = max((abs(a - b) / max(abs(b), 1e-3) for a, b in zip(found, expected)), default=0.0)
    whole = len(found) == len(expected) > 0 and all(map(math.isfinite, found))
    ok = whole and worst <= within
    measured = f"loss {found[-1]:.5f}" if found else "no loss"
    told = f"{of} {expected[-1]:.5f}" if expected else of
    return Row(
        what,
        f"{measured}, at most {worst:.1e} apart",
        f"{told}, within {within:.0e}",
        ok,
        {"loss": found[-1] if found else float("nan"), "apart": worst},
    )
