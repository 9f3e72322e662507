"""What is recorded of a run: its provenance and its tracker."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from data_modules.base import StageData
from unclip.common import artifacts
from unclip.config.load import ResolvedExperiment
from unclip.embeddings.clip import FrozenClip
from unclip.runs.init import Begun
from unclip.runs.parents import Parents
from unclip.tracking import provenance, wandb
from unclip.tracking.tracker import Tracker
from unclip.training.strategies import processes_started


def tracked_run(
    resolved: ResolvedExperiment, depends_on: Parents, folder: Path | None
) -> AbstractContextManager[Tracker | None]:
    """The run on W&B, if the experiment wants one; the first process alone has a ``folder``."""
    if folder is None:
        return nullcontext()
    return wandb.tracked(
        resolved.config.tracking,
        folder=folder,
        name=resolved.name,
        kind=resolved.stage.kind,
        experiment=resolved.as_dict(),
        parents=depends_on._asdict(),
    )


def origin_of_run(
    resolved: ResolvedExperiment,
    depends_on: Parents,
    clip: FrozenClip | None,
    data: StageData,
    begun: Begun | None = None,
) -> dict[str, Any]:
    """How the run comes to be, for its provenance.json."""
    trainer = resolved.config.trainer
    fingerprints = {} if clip is None else {"clip": clip.fingerprint}
    if depends_on.pca is not None:
        fingerprints["pca"] = artifacts.describe(depends_on.pca, key="pca").sha256
    if begun is not None:
        fingerprints["init"] = begun.sha256
    found = provenance.collect(
        experiment=resolved.name,
        seed=trainer.seed,
        processes=processes_started() or trainer.processes,
        data_fingerprint=data.splits.train.fingerprint(),
        parents=fingerprints,
    )
    return found if begun is None else {**found, "init": begun.as_json()}
