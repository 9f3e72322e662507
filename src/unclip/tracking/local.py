"""The default tracker: one JSON object a line in the run's own folder."""

from __future__ import annotations

import json
import math
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from unclip.common.atomic import atomic_write
from unclip.common.errors import UserError
from unclip.common.terminal import say
from unclip.tracking.files import METRICS, read_metrics
from unclip.tracking.status import require_there


class JsonlLogger(Logger):
    """Appends ``{"step": n, "time": seconds since the epoch, name: value, ...}`` lines."""

    def __init__(self, folder: Path):
        super().__init__()
        self.path = folder / METRICS

    @property
    def name(self) -> str:
        """Of the logger, as Lightning wants it."""
        return "local"

    @property
    def version(self) -> str:
        """Unused, as Lightning wants it."""
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """One line; Lightning's own counters are left out, and what had no samples (NaN)."""
        values = {k: float(v) for k, v in metrics.items() if k != "epoch"}
        values = {k: v for k, v in values.items() if not math.isnan(v)}
        line = {"step": step, "time": round(time.time(), 3), **values}
        require_there(self.path.parent)  # before a file is made where nothing else is
        try:
            with self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            require_there(self.path.parent)
            raise UserError(f"{self.path}: cannot be written: {error.strerror}") from None

    def forget_after(self, step: int, *, val_every: int, end: bool = False) -> None:
        """Drop what came after ``step`` optimizer steps: a resumed run logs it again.

        With ``end`` also the validation and samples of ``step``, the last one of the run. Lightning
        counts from 0: what training logs at ``step``, and a validation that is due (every
        ``val_every`` steps), is of the next one.
        """
        if not self.path.is_file():
            if step:
                say(f"unclip: note: {self.path}: is not there; begins at step {step}", error=True)
            return
        kept = []
        for row in read_metrics(self.path, note=True):
            taken = row["step"] or 0
            due = "val/loss" in row and (taken + 1) % val_every == 0
            taken += due or any(name.startswith(("train/", "lr-")) for name in row)
            again = end and taken == step and any(name.startswith("val/") for name in row)
            if taken <= step and not again:
                kept.append(json.dumps(row) + "\n")
        with atomic_write(self.path) as scratch:
            scratch.write_text("".join(kept))

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kw: Any) -> None:
        """The run's folder already has its experiment.yaml."""
