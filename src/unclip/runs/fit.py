"""Fits a PCA codec and exports it."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from unclip.common import artifacts
from unclip.config.load import ResolvedExperiment
from unclip.embeddings.clip import FrozenClip
from unclip.runs.folders import taken
from unclip.runs.parents import Make, Parents, build_data, resolve_parent
from unclip.runs.record import origin_of_run, tracked_run
from unclip.stages.clip.part import load_clip
from unclip.stages.pca import spectrum
from unclip.stages.pca.fit import FittedPca, fit_pca_codec
from unclip.tracking.files import PROVENANCE, read_json
from unclip.training import determinism
from unclip.training.world import device_of, join_processes


def fit_pca(resolved: ResolvedExperiment, *, force: bool = False, make: Make | None = None) -> Path:
    """Fit a PCA codec and export it; returns the artifact.

    The run's folder also gets ``spectrum.png`` and ``errors.csv``. Under torchrun the processes
    share the samples, and the first one writes.
    """
    experiment = resolved.config
    rank = join_processes()
    clip_spec = resolve_parent(resolved, "clip", make=make)
    assert clip_spec is not None
    clip = load_clip(clip_spec)
    experiment.clip = clip_spec
    determinism.pin_threads(experiment.trainer)
    with ExitStack() as stack:
        own = None
        if rank == 0:
            own = stack.enter_context(taken(resolved, resume=False, force=force))
        stack.enter_context(determinism.applied(experiment.trainer))
        data = build_data(resolved.stage, experiment, clip)
        data.setup()
        if own:
            origin = origin_of_run(resolved, Parents(clip_spec, None), clip, data)
            stack.enter_context(own.begun(resolved, origin))
        device = device_of(experiment.trainer.accelerator)
        fitted = fit_pca_codec(experiment.pca, clip, data, device)  # type: ignore[arg-type]
        if own is None:
            raise SystemExit  # the first process does the rest
        return _export_pca(resolved, clip, fitted, own.folder)


def _export_pca(
    resolved: ResolvedExperiment, clip: FrozenClip, fitted: FittedPca, folder: Path
) -> Path:
    summary = {**fitted.summary._asdict(), "components": fitted.codec.k, "samples": fitted.samples}
    artifact = artifacts.export(
        folder / "artifact",
        stage="pca",
        weights=fitted.codec.tensors(),
        config=resolved.as_dict(),
        provenance={**read_json(folder / PROVENANCE), "metrics": summary},
        embed_dim=fitted.codec.dim,
        clip_fingerprint=clip.fingerprint,
    )
    with tracked_run(resolved, Parents(resolved.config.clip, None), folder) as tracker:
        if tracker is not None:
            tracker.finished(summary, artifact, kind=resolved.stage.kind)
    spectrum.write(folder, fitted)
    print(spectrum.text(fitted))
    print(artifact.path)
    return artifact.path
