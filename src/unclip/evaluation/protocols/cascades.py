"""Judging a trained cascade on scenes: it draws held-out captions, the oracle reads them."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unclip.common import artifacts, atomic
from unclip.common.errors import UserError
from unclip.common.images import save
from unclip.data.scenes.dataset import single_object_prompts, two_object_prompts
from unclip.evaluation.config import CascadeEvaluation
from unclip.evaluation.protocols.scenes import OracleReading, draw, share, sheet
from unclip.pipeline.fast import fast_changes, samplers_of, say_fast, with_changes
from unclip.pipeline.pipeline import Pipeline
from unclip.pipeline.settings import Settings
from unclip.stages.decoder.config import DecoderExperiment
from unclip.tracking import wandb

RESPECTS = ("colour", "shape", "size", "position", "background", "relation")


@dataclass(frozen=True)
class EvaluatedCascade:
    """Shares of images that are right, by metric, and what was drawn."""

    metrics: dict[str, float]
    drawn: list[OracleReading]


def evaluate_cascade(
    folder: str,
    wanted: CascadeEvaluation,
    settings: Settings | None = None,
    *,
    fast: bool = False,
    adapters: Sequence[str] = (),
) -> EvaluatedCascade:
    """Draw and judge; with ``wanted.run.dir`` also write the figures and the images there.

    ``fast`` is `--fast`, ``adapters`` are those of `Pipeline.load`. That folder gets
    ``metrics.jsonl`` and ``summary.json``, as one of a training has them, and ``images.png``.

    Raises:
        UserError: the cascade was not trained on scenes, or cannot be sampled so.
    """
    root = Path(folder)
    decoder = artifacts.describe(root / "decoder", key="decoder")
    trained_on = decoder.stored(DecoderExperiment).data
    if trained_on.source != "scenes":
        raise UserError(
            f"{folder}: was trained on {trained_on.source}; the oracle judges scenes alone"
        )
    prompts = (single_object_prompts if wanted.objects == 1 else two_object_prompts)(
        wanted.n, wanted.seed, trained_on.scenes.shapes
    )
    settings = settings or Settings(batch=wanted.batch)
    pipeline = Pipeline.load(
        root, "auto", wanted.precision, wanted.offload, wanted.compile, adapters
    )
    if fast:
        changes = fast_changes(samplers_of(pipeline.cascade), settings)
        say_fast(changes)
        settings = with_changes(settings, changes)
    began = time.perf_counter()
    drawn = draw(pipeline, prompts, batch=wanted.batch, settings=settings)
    seconds = time.perf_counter() - began
    shares = {"colour_and_shape": share(drawn, "colour", "shape")}
    shares |= {what: share(drawn, what) for what in RESPECTS}
    metrics = {f"oracle/{k}": v for k, v in shares.items() if not math.isnan(v)}
    metrics["seconds_per_image"] = seconds / len(drawn)
    found = EvaluatedCascade(metrics, drawn)
    if wanted.run.dir:
        told = asdict(wanted) | settings.changes
        _write(wanted, root, told | ({"adapters": [*adapters]} if adapters else {}), found)
    return found


def _write(
    wanted: CascadeEvaluation, root: Path, settings: dict[str, Any], found: EvaluatedCascade
) -> None:
    folder = Path(wanted.run.dir or "")
    save(sheet(found.drawn), folder / "images.png")
    row = {"step": 0, "time": round(time.time(), 3), **found.metrics}
    summary: dict[str, Any] = {
        "evaluated": str(root),
        "settings": settings,
        "metrics": found.metrics,
    }
    files = {"metrics.jsonl": json.dumps(row), "summary.json": json.dumps(summary, indent=2)}
    for name, text in files.items():
        with atomic.atomic_write(folder / name) as scratch:
            scratch.write_text(text + "\n")
    parts = [path for path in root.iterdir() if (path / "artifact").is_dir()]
    with wandb.tracked(
        wanted.tracking,
        folder=folder,
        name=f"evaluate {root.name}",
        kind="evaluation",
        experiment=settings,
        parents={path.name: str(path) for path in parts},
    ) as tracker:
        if tracker is not None:
            tracker.log_metrics(found.metrics, step=0)
