"""Weights & Biases, when an experiment asks for it; imported late, never asks, never blocks."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unclip.training.configs import TrackingConfig
from unclip.training.stage import Picture


def logger(
    config: TrackingConfig, *, folder: Path, name: str, experiment: dict[str, Any], resume: bool
) -> Any:
    """Lightning's WandbLogger writing under ``folder``; offline where there are no credentials."""
    os.environ.setdefault("WANDB_DATA_DIR", str(folder))
    if "WANDB_MODE" not in os.environ and not _credentials():
        os.environ["WANDB_MODE"] = "offline"
    from lightning.pytorch.loggers import WandbLogger

    return WandbLogger(
        project=config.project,
        entity=config.entity,
        name=name,
        id=folder.name,
        save_dir=folder,
        config=experiment,
        resume="allow" if resume else None,
    )


def _credentials() -> bool:
    netrc = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    return "WANDB_API_KEY" in os.environ or (
        netrc.is_file() and "wandb" in netrc.read_text(errors="ignore")
    )


def picture_publisher(wandb_logger: Any) -> Callable[[list[Picture], int], None]:
    """Logs sample pictures with their captions."""

    def publish(pictures: list[Picture], step: int) -> None:
        wandb_logger.log_image(
            "samples",
            images=[p.image for p in pictures],
            step=step,
            caption=[p.caption for p in pictures],
        )

    return publish
