"""What came of a run, and the table that shows it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from unclip.common.terminal import visible
from unclip.tracking.files import SUMMARY, shown


@dataclass(frozen=True)
class Finished:
    """Where a run's results are, and its figures."""

    folder: Path
    artifact: Path
    summary: dict[str, Any]

    @classmethod
    def load(cls, folder: Path) -> Finished:
        """A run that finished earlier."""
        summary = json.loads((folder / SUMMARY).read_text())
        return cls(folder, folder / "artifact", summary)


def summary_table(runs: list[Finished]) -> None:
    """Loss, monitor, throughput, memory and where everything is, a column per run."""
    table = Table(show_header=True, box=None, pad_edge=False)
    table.add_column("")
    for run in runs:
        table.add_column(visible(run.summary["experiment"]), overflow="fold")

    def row(name: str, values: list[str]) -> None:
        table.add_row(name, *map(visible, values))

    each = [run.summary for run in runs]
    row("steps", [str(s["steps"]) for s in each])
    row("parameters", [f"{s['parameters']:,}" for s in each])
    row("loss", [shown(s["loss"]) for s in each])
    row("monitor", [f"{s['quality']['name']} {shown(s['quality']['value'])}" for s in each])
    row("throughput", [f"{shown(s['samples_per_second'])} samples/s" for s in each])
    row("data wait", [f"{100 * s['data_wait']:.1f} % of step time" for s in each])
    row("peak memory", [f"{shown(s['peak_memory_gib'], 3)} GiB" for s in each])
    row("time", [f"{s['seconds']:.0f} s" for s in each])
    row("run", [str(run.folder) for run in runs])
    row("samples", [str(run.folder / "samples") for run in runs])
    row("artifact", [str(run.artifact) for run in runs])
    Console(width=max(100, 60 * len(runs)), highlight=False, markup=False, emoji=False).print(table)
