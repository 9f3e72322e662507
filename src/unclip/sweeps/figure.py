"""A sweep as parallel coordinates: an axis per parameter, a line per trial."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator

from unclip.common import atomic
from unclip.common.counted import counted
from unclip.common.fonts import drawable
from unclip.sweeps.parameters import Parameter
from unclip.sweeps.spec import Sweep
from unclip.sweeps.trials import FAILED, FINISHED, PRUNED, RUNNING, Trial

MARKS: dict[str, tuple[str, Any]] = {
    PRUNED: ("0.55", "--"),
    FAILED: ("tab:red", ":"),
    RUNNING: ("0.8", "-."),
}
_CURVE = 24  # points of a line between two axes


class _Axis:
    """Where the values of a parameter, or of the metric, lie between 0 (below) and 1."""

    def __init__(self, name: str, values: Sequence[float | str], *, log: bool = False):
        self.name = name
        self.words = [str(v) for v in values] if any(isinstance(v, str) for v in values) else []
        self.log = log
        numbers = [float(v) for v in values if not isinstance(v, str)]
        self.low, self.high = (min(numbers), max(numbers)) if numbers else (0.0, 1.0)
        if self.low == self.high:  # one value: in the middle
            pad = abs(self.low) / 2 or 0.5
            self.low, self.high = self.low - pad, self.high + pad

    def place(self, value: float | str) -> float:
        if self.words:
            return (self.words.index(str(value)) + 0.5) / len(self.words)
        low, high, at = self.low, self.high, float(value)
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(at)
        return (at - low) / (high - low)

    def ticks(self) -> list[tuple[float, str]]:
        if self.words:
            return [(self.place(word), drawable(word)) for word in self.words]
        locator = LogLocator(subs=(1, 2, 5)) if self.log else MaxNLocator(5)
        values = [v for v in locator.tick_values(self.low, self.high) if self.low <= v <= self.high]
        return [(self.place(v), f"{v:.4g}") for v in (values or [self.low, self.high])]


def draw(sweep: Sweep, rows: Sequence[Trial], path: Path) -> Path:
    """Write the image of ``rows``, best first, and return ``path``.

    Lines are coloured by the metric and the best is thick. Trials that were pruned or failed are
    dashed or dotted; without a value of the metric they end before its axis.
    """
    axes = [_axis(p) for p in sweep.searched]
    values = [t.value for t in rows if t.value is not None]
    axes.append(_Axis(sweep.metric, values))
    finished = [t.value for t in rows if t.state == FINISHED and t.value is not None]
    colours = plt.get_cmap("viridis" if sweep.maximize else "viridis_r")  # bright is better
    colour = Normalize(min(finished, default=0), max(finished, default=1))
    figure, canvas = plt.subplots(figsize=(2.4 * len(axes) + 1.6, 5))
    for order, trial in enumerate(reversed(rows)):
        best = trial is rows[0] and trial.state == FINISHED
        heights = [a.place(_shown(p, trial)) for a, p in zip(axes, sweep.searched)]
        if trial.value is not None:
            heights.append(axes[-1].place(trial.value))
        shade, style = MARKS.get(trial.state, (colours(colour(trial.value or 0.0)), "-"))
        width = 4.0 if best else 1.5
        canvas.plot(*_curve(heights), color=shade, linestyle=style, linewidth=width, zorder=order)
        if len(heights) < len(axes):
            canvas.plot(len(heights) - 1, heights[-1], "x", color=shade, zorder=order)
    for at, axis in enumerate(axes):
        _upright(canvas, at, axis)
    _frame(canvas, sweep, rows, len(axes))
    shades = plt.cm.ScalarMappable(colour, colours)
    if len(set(finished)) > 1:
        figure.colorbar(shades, ax=canvas, label=sweep.metric, pad=0.06)
    with atomic.atomic_write(path) as scratch:
        figure.savefig(scratch, dpi=110, format="png", bbox_inches="tight")
    plt.close(figure)
    return path


def _axis(parameter: Parameter) -> _Axis:
    ends = [parameter.value(parameter.lowest), parameter.value(parameter.highest)]
    return _Axis(parameter.name, parameter.choices or ends, log=parameter.log and min(ends) > 0)


def _shown(parameter: Parameter, trial: Trial) -> float | str:
    value = trial.parameters[parameter.name]
    return str(value) if parameter.choices else value


def _curve(heights: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """A line through ``heights`` at 0, 1, 2, ..., level at each, so that lines can be followed."""
    x = np.linspace(0, len(heights) - 1, _CURVE * (len(heights) - 1) + 1)
    left = np.minimum(x.astype(int), max(len(heights) - 2, 0))
    t = x - left
    ends = np.array([*heights, heights[-1]])
    return x, ends[left] + (ends[left + 1] - ends[left]) * t * t * (3 - 2 * t)


def _upright(canvas: Axes, at: int, axis: _Axis) -> None:
    canvas.axvline(at, color="black", linewidth=1, zorder=-1)
    halo = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1}
    for height, text in axis.ticks():
        canvas.plot([at - 0.02, at], [height, height], color="black", linewidth=1)
        canvas.text(
            at - 0.03, height, text, ha="right", va="center", fontsize=9, bbox=halo, zorder=1e4
        )
    canvas.text(at, 1.06, axis.name + (" (log)" if axis.log else ""), ha="center", fontsize=10)


def _frame(canvas: Axes, sweep: Sweep, rows: Sequence[Trial], count: int) -> None:
    canvas.set(xlim=(-0.4, count - 0.85), ylim=(-0.04, 1.04))
    canvas.axis("off")
    best = f", best {rows[0].value:.4g}" if rows and rows[0].state == FINISHED else ""
    name = drawable(sweep.name)
    goal = "higher" if sweep.maximize else "lower"
    canvas.set_title(f"{name}: {counted(len(rows), 'trial')}{best} ({goal} is better)", pad=34)
    marks = [
        Line2D([], [], color=MARKS[state][0], linestyle=MARKS[state][1], label=state)
        for state in MARKS
        if any(t.state == state for t in rows)
    ]
    if marks:
        canvas.legend(
            handles=marks, loc="lower left", bbox_to_anchor=(0, -0.14), ncols=3, frameon=False
        )
