"""Where a run's checkpoints are. Imports no Lightning."""

from __future__ import annotations

from pathlib import Path


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the most steps in a run's ``folder``."""
    found = sorted((folder / "checkpoints").glob("step_*.ckpt"))
    return found[-1] if found else None
