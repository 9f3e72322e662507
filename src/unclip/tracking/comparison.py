"""Runs side by side: where their settings, figures and circumstances differ; curves; a page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from unclip.common.atomic import atomic_write
from unclip.common.fonts import drawable
from unclip.common.html import render
from unclip.common.tables import Lines
from unclip.tracking.files import METRICS, Curve, curves, read_metrics, shown
from unclip.tracking.index import RunRecord

# What is of one run alone, and so differs always.
_OWN = ("run.", "created", "command", "resumed", "experiment", "code_diff", "metrics.")


@dataclass(frozen=True)
class Compared:
    """A run, with what its files say in dotted keys."""

    label: str
    run: RunRecord
    fields: dict[str, Any]  # of its experiment
    origin: dict[str, Any]  # of its provenance
    curves: dict[str, Curve]

    @classmethod
    def load(
        cls, run: RunRecord, label: str, fields: dict[str, Any], origin: dict[str, Any]
    ) -> Compared:
        """With the curves of its metrics."""
        rows = read_metrics(run.folder / METRICS, note=run.status != "running")
        return cls(label, run, fields, origin, curves(rows))


def labels(runs: Sequence[RunRecord]) -> list[str]:
    """The end of each run's folder, as long as it takes to tell them apart."""
    parts = [run.folder.resolve().parts for run in runs]
    for count in range(1, max(map(len, parts)) + 1):
        found = ["/".join(each[-count:]) for each in parts]
        if len(set(found)) == len(found):
            break
    return found


def comparison_tables(runs: Sequence[Compared]) -> dict[str, Lines]:
    """By title: what differs in the experiments, the figures, what differs in the provenance."""
    names = list(dict.fromkeys(name for each in runs for name in each.curves))
    names.sort(key=lambda name: (not name.startswith("val/"), not name.startswith("train/")))
    last = [{name: each.curves[name][-1][1] for name in each.curves} for each in runs]
    figures = [["", *(each.label for each in runs)]]
    for what in ("experiment", "status", "started", "steps"):
        figures.append([what, *(_plain(getattr(each.run, what)) for each in runs)])
    figures += [[name, *(shown(values.get(name)) for values in last)] for name in names]
    return {
        "What differs in the experiments": _differing(runs, [each.fields for each in runs]),
        "Figures at the end": figures,
        "What differs in code, packages and machine": _differing(
            runs, [each.origin for each in runs]
        ),
    }


def _differing(runs: Sequence[Compared], values: Sequence[dict[str, Any]]) -> Lines:
    keys = list(dict.fromkeys(key for each in values for key in each))
    rows = [["", *(each.label for each in runs)]]
    for key in keys:
        row = [_plain(each[key]) if key in each else "-" for each in values]
        if len(set(row)) > 1 and not key.startswith(_OWN):
            rows.append([key, *row])
    return rows


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def write_comparison(folder: Path, runs: Sequence[Compared], found: dict[str, Lines]) -> Path:
    """Draw ``compare.png`` and write ``compare.html``, which needs no other file; the page."""
    with atomic_write(folder / "compare.png") as scratch:
        _draw(runs, scratch)
    page = folder / "compare.html"
    with atomic_write(page) as scratch:
        scratch.write_text(_page(runs, found, folder / "compare.png"), encoding="utf-8")
    return page


def _draw(runs: Sequence[Compared], path: Path) -> None:
    """Losses on one axis, other metrics of validation on one each; a colour per run.

    Of the metrics those that were measured more than once, and what runs are judged by.
    """
    judged = [each.run.monitor[0] for each in runs if each.run.monitor]
    often = [n for each in runs for n, c in each.curves.items() if len(c) > 1]
    names = [n for n in dict.fromkeys([*judged, *often]) if n.startswith("val/")]
    panels = [["train/loss", "val/loss"], *([name] for name in names if name != "val/loss")]
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(5 * columns, 3.4 * rows), squeeze=False)
    for axis, panel in zip(axes.flat, panels):
        for number, each in enumerate(runs):
            run = drawable(each.label).replace("$", r"\$")  # no formulas
            for name in panel:
                points = each.curves.get(name, [])
                style = "-" if name == "train/loss" and len(points) > 1 else "o-"
                label = f"{run} {drawable(name)}" if len(panel) > 1 else run
                if points:
                    axis.plot(*zip(*points), style, color=f"C{number}", label=label, markersize=4)
        axis.set_title(drawable(" and ".join(panel)), parse_math=False)
        axis.set_xlabel("optimizer step")
        axis.set_xlim(left=0)
        if axis.has_data():
            axis.legend(fontsize=7)
    axes[0, 0].set_yscale("log")
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110, format="png")
    plt.close(figure)


class NewestSamples(NamedTuple):
    """The newest sheet of samples of a run, if it has one."""

    label: str
    path: Path | None


def _page(runs: Sequence[Compared], found: dict[str, Lines], curves: Path) -> str:
    newest = []
    for each in runs:
        sheets = sorted((each.run.folder / "samples").glob("*.png"))
        newest.append(NewestSamples(each.label, sheets[-1] if sheets else None))
    template = Path(__file__).parent / "templates" / "comparison.html"
    return render(template, curves=curves, samples=newest, tables=found)
