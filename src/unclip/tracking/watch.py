"""A run while it trains: its curves, its pace and what is left. Imports no torch."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from unclip.common import yaml_text
from unclip.common.errors import UserError
from unclip.tracking import status
from unclip.tracking.files import EXPERIMENT, METRICS, Curve, curves, read_metrics, shown

RECENT = 20  # rows whose pace counts
FIRST = ("train/loss", "val/loss")  # of the curves that are shown
BRAILLE, DOTS = 0x2800, ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""The empty braille letter, and the bit of each of its dots by row and column."""


class View(NamedTuple):
    """A run at a moment."""

    state: str  # as of `unclip.tracking.status`
    why: str  # of a failure
    step: int
    steps: int | None  # in all, where the experiment says
    pace: float | None  # seconds per step, lately
    curves: dict[str, Curve]

    @property
    def left(self) -> float | None:
        """Seconds until the last step, at the recent pace."""
        if self.pace is None or self.steps is None or self.state != "running":
            return None
        return max(0, self.steps - self.step) * self.pace

    def line(self) -> str:
        """Where it stands, in a line."""
        of = "" if self.steps is None else f"/{self.steps:,}"
        words = [self.state, f"step {self.step:,}{of}"]
        if self.pace is not None:
            words.append(f"{self.pace:.3g} s/step")
        if self.left is not None:
            words.append(f"{timedelta(seconds=round(self.left))} left")
        return "  ".join(words)

    def chosen(self, names: Sequence[str], most: int) -> list[str]:
        """The curves to show: ``names``, or the losses and then those of the most points.

        Raises:
            UserError: there is no such curve, and there are others.
        """
        for name in names:
            if self.curves and name not in self.curves:
                raise UserError(f"--metric {name}: not among {', '.join(self.curves)}")
        rest = sorted(self.curves, key=lambda name: (name not in FIRST, -len(self.curves[name])))
        return [name for name in names or rest if name in self.curves][:most]


def view(folder: Path) -> View:
    """The run in ``folder``, as it is now."""
    how = status.status_of(folder)  # before the metrics: those of a run that has ended are whole
    rows = read_metrics(folder / METRICS)
    trainer = yaml_text.read_file(folder / EXPERIMENT).get("trainer")
    steps = trainer.get("max_steps") if isinstance(trainer, dict) else None
    step = max((row["step"] or 0 for row in rows), default=0)
    return View(how.state, how.why, step, steps, _pace(rows), curves(rows))


def _pace(rows: list[dict[str, Any]]) -> float | None:
    """Seconds per step over the recent rows; of a run that was resumed, since then."""
    points: list[tuple[int, float]] = []
    for row in rows:
        step, time = row["step"], row.get("time")
        if type(step) is int and isinstance(time, int | float):
            if points and step < points[-1][0]:
                points.clear()
            points.append((step, float(time)))
    points = points[-RECENT:]
    paces = [(t - s) / (b - a) for (a, s), (b, t) in pairwise(points) if b > a and t >= s]
    return sorted(paces)[len(paces) // 2] if paces else None


def chart(curve: Curve, width: int, height: int) -> list[str]:
    """``height`` lines of ``width`` braille letters: the mean of each column's values, joined."""
    across, down = 2 * width, 4 * height
    first, last = curve[0][0], curve[-1][0]
    sums: dict[int, list[float]] = {}
    for step, value in curve:
        at = (step - first) * (across - 1) // max(1, last - first)
        sums.setdefault(at, []).append(value)
    means = {at: sum(values) / len(values) for at, values in sums.items()}
    low, high = min(means.values()), max(means.values())
    scale = (down - 1) / (high - low) if high > low else 0.0
    heights = {at: round((high - mean) * scale) for at, mean in means.items()}
    cells = [[0] * width for _ in range(height)]
    for x, y in _joined(sorted(heights.items())):
        cells[y // 4][x // 2] |= DOTS[y % 4][x % 2]
    return ["".join(chr(BRAILLE + bits) for bits in row) for row in cells]


def _joined(points: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The points, and those on the straight lines between them."""
    yield from points[:1]
    for (x, y), (to_x, to_y) in pairwise(points):
        steps = max(to_x - x, abs(to_y - y))
        for k in range(1, steps + 1):
            yield x + round(k * (to_x - x) / steps), y + round(k * (to_y - y) / steps)


def values(found: View, names: Sequence[str]) -> str:
    """The newest value of each curve, in a line."""
    return "  ".join(f"{name} {shown(found.curves[name][-1][1])}" for name in names)


def check_address(url: str) -> None:
    """Refuse what no message can be sent to.

    Raises:
        UserError: it is not an address of the web.
    """
    if not url.startswith(("https://", "http://")) or not url.partition("://")[2].strip("/"):
        raise UserError(f"--notify {url}: must be an address, as https://example.org/hook")


def notify(url: str, experiment: str, folder: Path, found: View) -> str | None:
    """Send how the run ended as JSON; returns why that failed."""
    content = {
        "text": f"unclip: {experiment} is {found.line()}",
        "experiment": experiment,
        "folder": folder.name,
        "state": found.state,
        "step": found.step,
        "values": {name: curve[-1][1] for name, curve in found.curves.items()},
    }
    request = urllib.request.Request(
        url, json.dumps(content).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=20):
            return None
    except (OSError, ValueError, urllib.error.URLError) as error:
        return str(error) or type(error).__name__
