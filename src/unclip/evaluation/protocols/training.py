"""What the page of a cascade says of its training: a table of the stages, and their curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from unclip.common.fonts import drawable
from unclip.tracking import files
from unclip.tracking.report import Finished


def curves(runs: Sequence[Finished], path: Path) -> Path:
    """Training and validation loss, and the monitored metric, of each stage."""
    figure, axes = plt.subplots(1, len(runs), figsize=(4 * len(runs), 3), squeeze=False)
    for axis, run in zip(axes[0], runs):
        found = files.curves(files.read_metrics(run.folder / files.METRICS))
        for name, style in (("train/loss", "-"), ("val/loss", "o")):
            if points := found.get(name):
                style = style if len(points) > 1 else "o"  # a line of one point is none
                axis.plot(*zip(*points), style, label=name, markersize=4)
        axis.set_title(drawable(run.summary["experiment"]), parse_math=False)
        axis.set_xlabel("optimizer step")
        axis.set_yscale("log")
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def stage_table(runs: Sequence[Finished]) -> list[list[str]]:
    """Size, steps, results and cost of each stage, titles first."""
    rows = [["stage", "parameters", "steps", "loss", "metric", "samples/s", "time", "memory"]]
    for run in runs:
        s = run.summary
        rows.append(
            [
                s["experiment"],
                f"{s['parameters']:,}",
                str(s["steps"]),
                files.shown(s["loss"]),
                f"{s['quality']['name']} {files.shown(s['quality']['value'], 3)}",
                files.shown(s["samples_per_second"], 3),
                f"{s['seconds']:.0f} s",
                f"{s['peak_memory_gib']:.1f} GiB",
            ]
        )
    return rows
