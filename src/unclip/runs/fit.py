"""Fits a stage that has nothing to train, and exports it."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from unclip.common import artifacts
from unclip.common.terminal import say
from unclip.config.load import ResolvedExperiment
from unclip.embeddings.clip import FrozenClip
from unclip.pipeline.precision import choose_precision
from unclip.runs.ahead import announce
from unclip.runs.folders import acquire_run
from unclip.runs.parents import Make, Parents, load_parents, missing_parents, resolve_parent
from unclip.runs.record import origin_of_run, tracked_run
from unclip.stages.row import CLIP
from unclip.tracking.files import PROVENANCE, read_json
from unclip.tracking.status import require_there
from unclip.training import determinism
from unclip.training.strategies import require_gpu
from unclip.training.world import device_of, join_processes


def fit(resolved: ResolvedExperiment, *, force: bool = False, make: Make | None = None) -> Path:
    """Fit ``resolved`` (a PCA codec) and export it; returns the artifact.

    The run's folder also gets the report of the fit: ``spectrum.png`` and ``errors.csv``. Under
    torchrun the processes share the samples, and the first one writes. ``make`` first makes a CLIP
    that is missing.
    """
    experiment = resolved.config
    require_gpu(experiment.trainer.accelerator)
    device = device_of(experiment.trainer.accelerator)
    dtype = choose_precision(experiment.pca.precision, device, key="pca.precision")
    rank = join_processes()
    if make is not None:
        announce(resolved, missing_parents(resolved))
    parents = Parents(resolve_parent(resolved, CLIP, make=make))
    loaded = load_parents(experiment, parents)
    clip = loaded.clip
    assert clip is not None
    resolved.stage.fill(experiment, loaded.sizes())
    determinism.pin_threads(experiment.trainer)
    with ExitStack() as stack:
        own = None
        if rank == 0:
            own = stack.enter_context(acquire_run(resolved, force=force))
        stack.enter_context(determinism.apply(experiment.trainer))
        data = resolved.stage.data_module(experiment, clip)
        data.setup()
        if own:
            origin = origin_of_run(resolved, parents, clip, data)
            stack.enter_context(own.start(resolved, origin))
        with clip.model.computing_in(dtype):
            fitted = resolved.stage.fit(experiment, clip, data, device)
        if own is None:
            raise SystemExit  # the first process does the rest
        return _export(resolved, parents, clip, fitted, own.folder)


def _export(
    resolved: ResolvedExperiment, parents: Parents, clip: FrozenClip, fitted: Any, folder: Path
) -> Path:
    require_there(folder)
    artifact = artifacts.export(
        folder / "artifact",
        stage=resolved.stage.name,
        weights=fitted.weights,
        config=resolved.as_dict(),
        provenance={**read_json(folder / PROVENANCE), "metrics": fitted.summary},
        embed_dim=fitted.embed_dim,
        clip_fingerprint=clip.fingerprint,
    )
    with tracked_run(resolved, parents, folder) as tracker:
        if tracker is not None:
            tracker.finished(fitted.summary, artifact, kind=resolved.stage.kind)
    require_there(folder)
    fitted.write_report(folder)
    say(fitted.report, lines=True)
    say(artifact.path)
    return artifact.path
