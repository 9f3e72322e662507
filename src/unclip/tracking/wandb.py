"""Weights & Biases, when an experiment asks for it: imported late, never asks, never blocks."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unclip.common import artifacts
from unclip.common.atomic import atomic_write
from unclip.common.errors import UserError
from unclip.tracking.config import TrackingConfig
from unclip.tracking.connection import first_line, remark, why_offline
from unclip.tracking.files import read_metrics
from unclip.tracking.tracker import UNITS, Tracker

STATE = "wandb.json"
"""In a run's folder: which run on W&B it is."""

# What W&B would else collect by itself, and how long it may keep a run waiting. The user's own
# environment variables (WANDB_CONSOLE, WANDB_DISABLE_GIT, WANDB_FINISH_TIMEOUT, ...) go before.
SETTINGS: dict[str, Any] = {
    "console": "off",
    "disable_git": True,
    "disable_code": True,
    "save_code": False,
    "quiet": True,
    "init_timeout": 30.0,
    "finish_timeout": 300.0,
}


@contextmanager
def tracked(
    config: TrackingConfig,
    *,
    folder: Path,
    name: str,
    kind: str,
    experiment: dict[str, Any],
    parents: dict[str, str | None],
) -> Iterator[Tracker | None]:
    """The run on W&B that goes with the run in ``folder``; None where ``config`` has it off.

    It is the same one when the run is resumed. Without credentials or network, or with
    ``WANDB_MODE=offline``, everything is written under ``folder`` alone, for ``wandb sync``.

    Args:
        config: The experiment's section.
        folder: The run's folder; W&B's files go below ``folder/wandb``.
        name: Of the experiment, ``kind/name``.
        kind: Of the stage, and the type of its artifact.
        experiment: All fields.
        parents: What it depends on: key (clip, pca) -> artifact folder, or what is not on W&B.
    """
    if not config.wandb or os.environ.get("WANDB_MODE") == "disabled":
        yield None
        return
    known = _known(folder)
    with _data_below(folder / "wandb"):
        found = _artifacts(parents)
        run = _start(
            config,
            dir=folder,
            name=name,
            job_type=kind,
            id=known.get("id"),
            config={
                **experiment,
                "units": UNITS,
                "parents": {key: artifact.sha256 for key, artifact in found.items()},
            },
        )
        with atomic_write(folder / STATE) as scratch:
            scratch.write_text(json.dumps({"id": run.id, "project": run.project}) + "\n")
        tracker = Tracker(run, folder, config.log_weights, _sent(run, folder) if known else {})
        tracker.lean_on(list(found.values()))
        try:
            yield tracker
        except BaseException as error:
            tracker.close(error)
            raise
        else:
            tracker.close(None)


def _start(tracking: TrackingConfig, **about: Any) -> Any:
    import wandb

    mode: Any = wandb.setup().settings.mode
    if mode in ("online", "shared", "run") and (why := why_offline()):
        remark(f"{why}; going on offline")
        mode = "offline"
    if os.environ.get("WANDB_SWEEP_ID"):  # the sweep decides which run it is, and where
        del about["id"]
    else:
        about |= {"project": tracking.project, "entity": tracking.entity}
        about["id"] = about["id"] or secrets.token_hex(4)
    own = {k: v for k, v in SETTINGS.items() if f"WANDB_{k.upper()}" not in os.environ}
    if tracking.log_weights:
        own.pop("finish_timeout", None)  # weights take the time they take
    settings = wandb.Settings(**own)
    if mode != "offline":
        try:
            return wandb.init(**about, mode=mode, resume="allow", settings=settings)
        except wandb.errors.Error as error:
            remark(f"{first_line(error)}; going on offline")
    return wandb.init(**about, mode="offline", settings=settings)


def _known(folder: Path) -> dict[str, Any]:
    """The run on W&B that ``folder`` had before it was interrupted, if any."""
    file = folder / STATE
    if not file.is_file():
        return {}
    try:
        known = json.loads(file.read_text())
        if known["id"].replace("-", "").replace("_", "").isalnum():
            return dict(known)
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise UserError(f"{file}: damaged; remove it to continue as a new run on W&B")


def _sent(run: Any, folder: Path) -> dict[str, int]:
    """Name -> the last step at which it was logged before the run was interrupted."""
    sent: dict[str, int] = {}
    if (folder / "metrics.jsonl").is_file():
        for row in read_metrics(folder / "metrics.jsonl"):
            sent |= {key: int(row["step"]) for key in row if row["step"] is not None}
    sheets = sorted((folder / "samples").glob("step_*.png"))
    if sheets:
        sent["samples"] = sent["samples_table"] = int(sheets[-1].stem.removeprefix("step_"))
    if run.offline:
        return sent
    # A killed process takes with it what was not uploaded yet.
    arrived = int(run.summary.get("trainer/global_step", -1))
    return {key: min(step, arrived) for key, step in sent.items()}


def _artifacts(parents: dict[str, str | None]) -> dict[str, artifacts.Artifact]:
    """Those of ``parents`` that are artifacts, and not a model of open_clip's."""
    own = {key: spec for key, spec in parents.items() if spec and not spec.startswith("open_clip:")}
    return {key: artifacts.describe(spec, key=key) for key, spec in own.items()}


@contextmanager
def _data_below(folder: Path) -> Iterator[None]:
    """Files that wait for their upload stay in ``folder``: W&B reads the environment for that."""
    if "WANDB_DATA_DIR" in os.environ:
        yield
        return
    os.environ["WANDB_DATA_DIR"] = str(folder)
    try:
        yield
    finally:
        del os.environ["WANDB_DATA_DIR"]
