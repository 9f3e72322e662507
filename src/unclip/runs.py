"""One training run: from a resolved experiment to an exported artifact."""

from __future__ import annotations

import json
import sys
import time
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
from torch import Tensor

from data_modules.base import StageData
from unclip import artifacts, config, fits, registry
from unclip.builders import build_data, build_stage, fit_to_clip, fit_to_codec
from unclip.evaluation import spectrum
from unclip.models.clip import FrozenClip
from unclip.nn import attention
from unclip.run_folders import (
    newest_artifact,
    same_model,
    shared,
    shared_folder,
    taken,
)
from unclip.tracking import provenance, wandb
from unclip.tracking.files import PROVENANCE, SUMMARY, read_json
from unclip.tracking.local import JsonlLogger
from unclip.tracking.report import Finished
from unclip.tracking.tracker import Tracker
from unclip.training import determinism
from unclip.training.callbacks import Samples, Throughput, peak_memory_bytes
from unclip.training.checkpoint_folders import newest_checkpoint, newest_whole, step_of
from unclip.training.ema import EmaCallback
from unclip.training.guard import Guard
from unclip.training.stage import Stage
from unclip.training.strategies import processes_started
from unclip.training.trainer import build, quiet
from unclip.training.world import World
from unclip.types import UserError


def train(
    resolved: config.Resolved,
    *,
    resume: bool = False,
    force: bool = False,
    with_parents: bool = False,
) -> Finished:
    """Train ``resolved`` (or continue it) and export its artifact.

    ``with_parents`` first trains the experiments it leans on that have no finished run.
    """
    leans_on = parents(resolved, with_parents=with_parents)
    trainer = resolved.config.trainer
    determinism.pin_threads(trainer)
    with ExitStack() as stack:
        along = shared_folder(resolved)
        own = None if along else stack.enter_context(taken(resolved, resume=resume, force=force))
        folder = along or own.folder  # type: ignore[union-attr]
        stack.enter_context(shared(folder))  # Lightning's further processes run the same command
        checkpoint = None
        if resume:
            checkpoint = newest_checkpoint(folder) if along else newest_whole(folder)
        stack.enter_context(determinism.applied(trainer))
        data, stage = assemble(resolved, leans_on, resumed=folder if checkpoint else None)
        if own:
            stack.enter_context(
                own.begun(resolved, _origin(resolved, leans_on, stage.__dict__["clip"], data))
            )
            resuming = f", resuming {checkpoint.name}" if checkpoint else ""
            print(f"{resolved.name}: {folder}{resuming}", flush=True)
            if sys.stderr.isatty() and not resolved.config.tracking.wandb:
                hint = "tracking.wandb=true sends metrics to W&B too (docs/wandb.md)"
                print(hint, file=sys.stderr)
        stack.enter_context(attention.backend(trainer.attention))
        tracker = stack.enter_context(_tracked(resolved, leans_on, own.folder if own else None))
        return _fit(resolved, stage, data, folder, checkpoint, tracker)


def _tracked(
    resolved: config.Resolved, leans_on: Parents, folder: Path | None
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
        parents=leans_on._asdict(),
    )


class Parents(NamedTuple):
    """The artifacts (or open_clip model) that an experiment leans on."""

    clip: str | None
    pca: str | None


def parents(resolved: config.Resolved, *, with_parents: bool) -> Parents:
    """What ``resolved`` leans on; ``with_parents`` first makes what is missing.

    Raises:
        UserError: something is missing, or ``resolved`` is not for training.
    """
    if resolved.stage.name == "pca":
        raise UserError(f"{resolved.name}: is fitted, not trained: unclip fit-pca {resolved.name}")
    # Processes that were started together cannot train a parent first: each must do its part of it.
    with_parents = with_parents and processes_started() is None
    clip = _resolve(resolved, "clip", with_parents=with_parents)
    return Parents(clip, _resolve(resolved, "pca", with_parents=with_parents, clip=clip))


def assemble(
    resolved: config.Resolved, leans_on: Parents, *, resumed: Path | None = None
) -> tuple[StageData, Stage]:
    """Data and stage of an experiment; sizes that its parents decide are filled in.

    ``resumed`` is the folder of the run whose checkpoint the stage will load.
    """
    experiment = resolved.config
    quiet()
    L.seed_everything(experiment.trainer.seed, workers=True, verbose=False)
    clip = artifacts.load_clip(leans_on.clip) if leans_on.clip else None
    if clip is not None:
        experiment.clip = leans_on.clip
        fit_to_clip(experiment, clip)
    if clip is not None and leans_on.pca is not None:
        experiment.pca = leans_on.pca
        fit_to_codec(experiment, artifacts.load_codec(leans_on.pca, clip))
    data = build_data(resolved.stage, experiment, clip)
    data.setup()
    if resumed is not None:
        same_model(resumed, experiment)
    stage = build_stage(resolved.stage, experiment, clip)
    if resumed is None and getattr(experiment.model, "standardise", False):
        assert clip is not None
        device = fits.device_of(experiment.trainer.accelerator)
        fits.fit_standardisation([stage.net, stage.ema], clip, data, device)  # type: ignore[arg-type]
    return data, stage


def _origin(
    resolved: config.Resolved, leans_on: Parents, clip: FrozenClip | None, data: StageData
) -> dict[str, Any]:
    """How the run comes to be, for its provenance.json."""
    trainer = resolved.config.trainer
    fingerprints = {} if clip is None else {"clip": clip.fingerprint}
    if leans_on.pca is not None:
        fingerprints["pca"] = artifacts.describe(leans_on.pca, key="pca").sha256
    return provenance.collect(
        experiment=resolved.name,
        seed=trainer.seed,
        processes=processes_started() or trainer.devices * trainer.nodes,
        data_fingerprint=data.splits.train.fingerprint(),
        parents=fingerprints,
    )


def _fit(
    resolved: config.Resolved,
    stage: Stage,
    data: StageData,
    folder: Path,
    checkpoint: Path | None,
    tracker: Tracker | None,
) -> Finished:
    experiment = resolved.config
    local = JsonlLogger(folder)
    if checkpoint is not None and not shared_folder(resolved):
        local.forget_after(step_of(checkpoint))
    loggers: list[Any] = [local]
    publish = None
    if tracker is not None:
        loggers.append(tracker)
        publish = tracker.publish
    batch_size, log_every = experiment.data.batch_size, experiment.trainer.log_every
    throughput = Throughput(batch_size, log_every, lambda: data.skipped)
    samples = Samples(folder / "samples", experiment.trainer.sample_every, publish)
    callbacks: list[L.Callback] = [throughput, samples]
    if stage.ema is not None:
        callbacks.insert(0, EmaCallback(experiment.ema))
    callbacks.append(Guard(folder, experiment.trainer, stage.quality))
    trainer = build(experiment.trainer, folder=folder, callbacks=callbacks, loggers=loggers)
    began = time.perf_counter()
    trainer.fit(stage, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    metrics = {k: float(v) for k, v in trainer.callback_metrics.items()}
    if trainer.global_step % (experiment.trainer.val_every or trainer.global_step + 1):
        metrics |= {
            k: float(v)
            for result in trainer.validate(stage, datamodule=data, verbose=False)
            for k, v in result.items()
        }
    metrics |= samples.metrics
    weights = stage.weights()
    skipped = sum(World.here().gathered(data.skipped))
    if not trainer.is_global_zero:
        raise SystemExit  # the first process does the rest
    summary = {
        "experiment": resolved.name,
        "steps": trainer.global_step,
        "loss": metrics.get("val/loss", metrics.get("train/loss")),
        "quality": {"name": stage.quality.name, "value": metrics.get(stage.quality.name)},
        "samples_per_second": throughput.samples_per_second,
        "data_wait": throughput.waited / throughput.seconds if throughput.seconds else 0.0,
        "data_skipped": skipped,
        "peak_memory_gib": peak_memory_bytes(stage.device) / 2**30,
        "seconds": time.perf_counter() - began,
        "parameters": sum(p.numel() for p in stage.net.parameters()),
        "metrics": metrics,
    }
    artifact = _export(resolved, stage, weights, folder, metrics)
    (folder / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n")
    if tracker is not None:
        tracker.finished(summary, artifact, kind=resolved.stage.kind)
    return Finished(folder, artifact.path, summary)


def _export(
    resolved: config.Resolved,
    stage: Stage,
    weights: dict[str, Tensor],
    folder: Path,
    metrics: dict[str, float],
) -> artifacts.Artifact:
    clip: FrozenClip | None = stage.__dict__["clip"]
    experiment = resolved.config
    embed_dim = experiment.model.embed_dim if hasattr(experiment.model, "embed_dim") else None
    uses_clip = clip is not None and getattr(experiment.model, "use_z_i", True)
    return artifacts.export(
        folder / "artifact",
        stage=resolved.stage.name,
        weights=weights,
        config=resolved.as_dict(),
        provenance={**read_json(folder / PROVENANCE), "metrics": metrics},
        embed_dim=embed_dim,
        clip_fingerprint=clip.fingerprint if clip is not None and uses_clip else None,
    )


def _resolve(
    resolved: config.Resolved, kind: str, *, with_parents: bool, clip: str | None = None
) -> str | None:
    """The artifact (or open_clip model) that the experiment's field ``kind`` (clip, pca) names."""
    spec: str | None = getattr(resolved.config, kind, None)
    if not isinstance(spec, str) or spec.startswith("open_clip:") or Path(spec).is_dir():
        return spec if isinstance(spec, str) else None
    if not spec.startswith(f"{kind}/"):
        artifacts.describe(spec, key=kind)  # raises, saying what is missing
    root = resolved.config.run.root
    finished = newest_artifact(spec, root)
    if finished:
        return str(finished)
    if not with_parents:
        name = spec.removeprefix("clip/")
        command = f"make train-clip EXP={name}" if kind == "clip" else f"unclip fit-pca {spec}"
        raise UserError(
            f"{kind}={spec}: no finished run in {Path(root) / spec}; run `{command}` first, add "
            "--with-parents, or name an artifact" + " or open_clip:ARCH/TAG" * (kind == "clip")
        )
    registry.find(spec)
    print(f"{resolved.name} leans on {spec}, which has no finished run: making it first")
    trainer = resolved.config.trainer
    given = [f"run.root={root}", f"trainer.seed={trainer.seed}"]
    given += [f"trainer.deterministic={trainer.deterministic}"]
    for name in ("source", "embeddings") if kind == "pca" else ("source",):
        if resolved.origins.get(f"data.{name}") == config.OVERRIDE:
            given.append(f"data.{name}={getattr(resolved.config.data, name)}")
    if kind == "pca":
        return str(fit_pca(config.load(spec, [*given, f"clip={clip}"])))
    return str(train(config.load(spec, given)).artifact)


def fit_pca(resolved: config.Resolved, *, force: bool = False, with_parents: bool = False) -> Path:
    """Fit a PCA codec and export it; returns the artifact.

    The run's folder also gets ``spectrum.png`` and ``errors.csv``. Under torchrun the processes
    share the samples, and the first one writes.
    """
    experiment = resolved.config
    rank = fits.join_processes()
    clip_spec = _resolve(resolved, "clip", with_parents=with_parents)
    assert clip_spec is not None
    clip = artifacts.load_clip(clip_spec)
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
            origin = _origin(resolved, Parents(clip_spec, None), clip, data)
            stack.enter_context(own.begun(resolved, origin))
        device = fits.device_of(experiment.trainer.accelerator)
        fitted = fits.fit_pca(experiment.pca, clip, data, device)  # type: ignore[arg-type]
        if own is None:
            raise SystemExit  # the first process does the rest
        return _export_pca(resolved, clip, fitted, own.folder)


def _export_pca(
    resolved: config.Resolved, clip: FrozenClip, fitted: fits.FittedPca, folder: Path
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
    with _tracked(resolved, Parents(resolved.config.clip, None), folder) as tracker:
        if tracker is not None:
            tracker.finished(summary, artifact, kind=resolved.stage.kind)
    spectrum.write(folder, fitted)
    print(spectrum.text(fitted))
    print(artifact.path)
    return artifact.path
