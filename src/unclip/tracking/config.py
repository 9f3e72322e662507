"""How a run is logged. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(kw_only=True)
class TrackingConfig:
    """Where metrics go besides the run's own metrics.jsonl."""

    wandb: bool = False  # log to Weights & Biases too; offline where it cannot be reached
    log_weights: bool = False  # upload the finished stage's weights, not only their checksum
    project: str = "unclip"
    entity: str | None = None
