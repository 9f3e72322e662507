"""One training run: from a resolved experiment to an exported artifact."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import secrets
import shutil
import time
import warnings
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
import yaml

from data_modules.base import StageData
from unclip import artifacts, config, fits, registry
from unclip.builders import build_data, build_stage, fit_to_clip, fit_to_codec, load_codec
from unclip.evaluation import spectrum
from unclip.evaluation.priors import Evaluated, evaluate, training_flops
from unclip.models.clip import FrozenClip
from unclip.pipeline.parts import PRIORS, Part, load_prior
from unclip.tracking.local import JsonlLogger
from unclip.tracking.provenance import collect
from unclip.tracking.report import Finished
from unclip.training.callbacks import Samples, Throughput, peak_memory_bytes
from unclip.training.checkpoints import newest_checkpoint
from unclip.training.ema import EmaCallback
from unclip.training.stage import Stage
from unclip.training.trainer import build
from unclip.types import UserError

_FOLDER = "UNCLIP_RUN_FOLDER"


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
    experiment = resolved.config
    if resolved.stage.name == "pca":
        raise UserError(f"{resolved.name}: is fitted, not trained: unclip fit-pca {resolved.name}")
    parent = _resolve(resolved, "clip", with_parents=with_parents)
    pca = _resolve(resolved, "pca", with_parents=with_parents, clip=parent)
    folder = _shared_folder() or run_folder(resolved, resume=resume, force=force)
    os.environ[_FOLDER] = str(folder)  # Lightning's further processes run the same command
    checkpoint = newest_checkpoint(folder) if resume else None
    _quiet()
    L.seed_everything(experiment.trainer.seed, workers=True, verbose=False)
    clip = artifacts.load_clip(parent) if parent else None
    if clip is not None:
        experiment.clip = parent
        fit_to_clip(experiment, clip)
    if clip is not None and pca is not None:
        experiment.pca = pca
        fit_to_codec(experiment, load_codec(pca, clip))
    data = build_data(resolved.stage, experiment, clip)
    data.setup()
    if checkpoint is not None:
        _same_model(folder, experiment)
    stage = build_stage(resolved.stage, experiment, clip)
    if checkpoint is None and getattr(experiment.model, "standardise", False):
        assert clip is not None
        device = device_of(experiment.trainer.accelerator)
        fits.fit_standardisation([stage.net, stage.ema], clip, data, device)  # type: ignore[arg-type]
    if not _shared_folder():
        resuming = f", resuming {checkpoint.name}" if checkpoint else ""
        print(f"{resolved.name}: {folder}{resuming}", flush=True)
        _write_experiment(folder, resolved)
    try:
        return _fit(resolved, stage, data, folder, checkpoint)
    finally:
        os.environ.pop(_FOLDER, None)


def _shared_folder() -> Path | None:
    """The run's folder, in a process that another one started to train along."""
    if int(os.environ.get("LOCAL_RANK", 0)) == 0:
        return None
    return Path(os.environ[_FOLDER])


def _quiet() -> None:
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", ".*`isinstance\\(treespec, LeafSpec\\)`.*")


def _fit(
    resolved: config.Resolved, stage: Stage, data: StageData, folder: Path, checkpoint: Path | None
) -> Finished:
    experiment = resolved.config
    loggers: list[Any] = [JsonlLogger(folder)]
    publish = None
    if experiment.tracking.wandb:
        from unclip.tracking import wandb

        loggers.append(
            wandb.logger(
                experiment.tracking,
                folder=folder,
                name=resolved.name,
                experiment=resolved.as_dict(),
                resume=checkpoint is not None,
            )
        )
        publish = wandb.picture_publisher(loggers[-1])
    throughput = Throughput(experiment.data.batch_size, experiment.trainer.log_every)
    samples = Samples(folder / "samples", experiment.trainer.sample_every, publish)
    callbacks: list[L.Callback] = [throughput, samples]
    if stage.ema is not None:
        callbacks.insert(0, EmaCallback(experiment.ema))
    trainer = build(experiment.trainer, folder=folder, callbacks=callbacks, loggers=loggers)
    began = time.perf_counter()
    trainer.fit(stage, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    if trainer.interrupted:
        raise UserError(f"interrupted at step {trainer.global_step}; continue with --resume")
    metrics = {k: float(v) for k, v in trainer.callback_metrics.items()}
    if trainer.global_step % (experiment.trainer.val_every or trainer.global_step + 1):
        metrics |= {
            k: float(v)
            for result in trainer.validate(stage, datamodule=data, verbose=False)
            for k, v in result.items()
        }
    metrics |= samples.metrics
    final = folder / "checkpoints" / f"step_{trainer.global_step:07d}.ckpt"
    if not final.exists():
        trainer.save_checkpoint(final)
    if not trainer.is_global_zero:
        raise SystemExit  # the first process does the rest
    summary = {
        "experiment": resolved.name,
        "steps": trainer.global_step,
        "loss": metrics.get("val/loss", metrics.get("train/loss")),
        "quality": {"name": stage.quality.name, "value": metrics.get(stage.quality.name)},
        "samples_per_second": throughput.samples_per_second,
        "data_wait": throughput.waited / throughput.seconds if throughput.seconds else 0.0,
        "peak_memory_gib": peak_memory_bytes(stage.device) / 2**30,
        "seconds": time.perf_counter() - began,
        "parameters": sum(p.numel() for p in stage.net.parameters()),
        "metrics": metrics,
    }
    artifact = _export(resolved, stage, data, folder, metrics)
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    return Finished(folder, artifact.path, summary)


def _export(
    resolved: config.Resolved,
    stage: Stage,
    data: StageData,
    folder: Path,
    metrics: dict[str, float],
) -> artifacts.Artifact:
    clip: FrozenClip | None = stage.__dict__["clip"]
    experiment = resolved.config
    provenance = collect(
        seed=experiment.trainer.seed,
        data_fingerprint=data.splits.train.fingerprint(),
        parents={} if clip is None else {"clip": clip.fingerprint},
    )
    provenance["metrics"] = metrics
    embed_dim = experiment.model.embed_dim if hasattr(experiment.model, "embed_dim") else None
    uses_clip = clip is not None and getattr(experiment.model, "use_z_i", True)
    return artifacts.export(
        folder / "artifact",
        stage=resolved.stage.name,
        weights=stage.weights(),
        config=resolved.as_dict(),
        provenance=provenance,
        embed_dim=embed_dim,
        clip_fingerprint=clip.fingerprint if clip is not None and uses_clip else None,
    )


def run_folder(resolved: config.Resolved, *, resume: bool, force: bool) -> Path:
    """The folder of a new run, or of the one to continue; never one that is in use by another."""
    run = resolved.config.run
    home = Path(run.root) / resolved.name
    if resume:
        if run.dir:
            found = [Path(run.dir)]
        else:
            found = sorted(p for p in home.glob("*") if newest_checkpoint(p))[-1:]
        if not found or not newest_checkpoint(found[0]):
            where = run.dir or home
            raise UserError(f"--resume: no checkpoint in {where}; start the run without --resume")
        return found[0]
    if run.dir:
        folder = Path(run.dir)
        if folder.is_dir() and any(folder.iterdir()):
            if not force:
                raise UserError(
                    f"run.dir={folder}: exists and is not empty; add --resume to continue it or "
                    "--force to start anew"
                )
            if not (folder / "experiment.yaml").is_file():
                raise UserError(f"run.dir={folder}: --force replaces runs only, this is none")
            shutil.rmtree(folder)
    else:
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        folder = home / f"{stamp}-{secrets.token_hex(2)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"run.dir={folder}: cannot be made: {error.strerror}") from None
    return folder


def _write_experiment(folder: Path, resolved: config.Resolved) -> None:
    text = yaml.safe_dump(resolved.as_dict(), sort_keys=False)
    (folder / "experiment.yaml").write_text(text)


def _same_model(folder: Path, experiment: Any) -> None:
    """A run can be continued longer or elsewhere, but not as another model."""
    before = config.read_yaml(folder / "experiment.yaml")
    now = dataclasses.asdict(experiment)
    for section in ("stage", "model", "diffusion"):
        if before.get(section) != now.get(section):
            raise UserError(
                f"--resume: {section} differs from {folder / 'experiment.yaml'}; "
                "a run continues with the model it was started with"
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
    given = [f"run.root={root}", f"trainer.seed={resolved.config.trainer.seed}"]
    if resolved.origins.get("data.source") == config.OVERRIDE:
        given.append(f"data.source={resolved.config.data.source}")
    if kind == "pca":
        return str(fit_pca(config.load(spec, [*given, f"clip={clip}"])))
    return str(train(config.load(spec, given)).artifact)


def newest_artifact(name: str, root: str = "runs") -> Path | None:
    """The artifact of the newest finished run of the experiment ``name``."""
    found = sorted((Path(root) / name).glob("*/artifact/artifact.json"))
    return found[-1].parent if found else None


def fit_pca(resolved: config.Resolved, *, force: bool = False, with_parents: bool = False) -> Path:
    """Fit a PCA codec and export it; returns the artifact.

    The run's folder also gets ``spectrum.png`` and ``errors.csv``.
    """
    experiment = resolved.config
    spec = _resolve(resolved, "clip", with_parents=with_parents)
    assert spec is not None
    clip = artifacts.load_clip(spec)
    experiment.clip = spec
    data = build_data(resolved.stage, experiment, clip)
    data.setup()
    fitted = fits.fit_pca(experiment.pca, clip, data, device_of(experiment.trainer.accelerator))  # type: ignore[arg-type]
    folder = run_folder(resolved, resume=False, force=force)
    _write_experiment(folder, resolved)
    summary = {**fitted.summary._asdict(), "components": fitted.codec.k, "samples": fitted.samples}
    provenance = collect(
        seed=experiment.trainer.seed,
        data_fingerprint=data.splits.train.fingerprint(),
        parents={"clip": clip.fingerprint},
    )
    provenance["metrics"] = summary
    artifact = artifacts.export(
        folder / "artifact",
        stage="pca",
        weights=fitted.codec.tensors(),
        config=resolved.as_dict(),
        provenance=provenance,
        embed_dim=fitted.codec.dim,
        clip_fingerprint=clip.fingerprint,
    )
    spectrum.write(folder, fitted)
    print(spectrum.text(fitted))
    print(artifact.path)
    return artifact.path


def fit_variance(
    path: Path, *, steps: list[str] | None, samples: int, clip: str | None, source: str | None
) -> list[str]:
    """Fit Analytic-DPM's errors to a diffusion prior and keep them in its artifact."""
    opened = _open_prior(path, clip=clip, source=source)
    if opened.part.diffusion is None:
        raise UserError(f"prior={path}: is autoregressive; Analytic-DPM is for diffusion priors")
    lines = []
    errors = dict(opened.part.errors)
    for wanted in steps or [str(opened.part.sampler.steps)]:
        found = fits.fit_errors(
            opened.part, opened.clip, opened.data, opened.device, steps=wanted, samples=samples
        )
        errors[str(wanted)] = found
        lines.append(f"steps {wanted}: error of x0 from {found[0]:.3g} (t=0) to {found[-1]:.3g}")
    opened.artifact.keep_errors(errors)
    return [*lines, f"kept in {opened.artifact.path / artifacts.ERRORS}"]


def evaluate_prior(
    name: str,
    *,
    n: int,
    batch: int,
    seed: int,
    steps: str | None,
    clip: str | None,
    source: str | None,
) -> Evaluated:
    """Metrics of a trained prior on ``n`` held-out samples, its size and its cost."""
    path = Path(name)
    if not path.is_dir():
        registry.find(name)
        found = newest_artifact(name)
        if found is None:
            raise UserError(f"{name}: no finished run in {Path('runs') / name}; train it first")
        path = found
    opened = _open_prior(path, clip=clip, source=source, n=n, batch=batch)
    part = opened.part
    if steps is not None and part.diffusion is not None:
        part = part.with_steps(steps)
    held_out = fits.embeddings(
        opened.clip.model, opened.data, device=opened.device, split="held_out", title=name
    )
    pairs = ((some.batch.captions, some.z_i, some.z_t) for some in held_out)
    metrics, seconds = evaluate(part, opened.clip.model, pairs, seed=seed)
    stored = opened.artifact.config
    trained_on = stored["trainer"]["max_steps"] * stored["data"]["batch_size"]
    return Evaluated(
        name=name,
        kind=opened.artifact.stage,
        parameters=sum(p.numel() for p in opened.part.net.parameters()),
        training_flops=training_flops(opened.part, opened.clip.model, samples=trained_on),
        milliseconds=1000 * seconds,
        metrics=metrics._asdict(),
    )


class _Opened(NamedTuple):
    """A trained prior with what it was trained with."""

    artifact: artifacts.Artifact
    part: Part
    clip: FrozenClip
    data: Any  # PriorData
    device: torch.device


def _open_prior(
    path: Path, *, clip: str | None, source: str | None, n: int | None = None, batch: int = 100
) -> _Opened:
    artifact = artifacts.expect(artifacts.describe(path, key="prior"), PRIORS, key="prior")
    entry = registry.stage(artifact.stage, str(artifact.path))
    experiment = artifacts.typed(entry.config(), artifact.config)
    frozen = artifacts.load_clip(clip or experiment.clip)  # type: ignore[attr-defined]
    part = load_prior(path, frozen)
    data = experiment.data  # type: ignore[attr-defined]
    data.source = source or data.source
    data.batch_size = batch
    if n is not None:
        data.val_samples = n
    module = build_data(entry, experiment, frozen)
    module.setup()
    device = device_of(experiment.trainer.accelerator)
    part.net.to(device)
    frozen.model.to(device)
    return _Opened(artifact, part, frozen, module, device)


def device_of(accelerator: str) -> torch.device:
    """One device of the kind that ``trainer.accelerator`` names."""
    gpu = accelerator == "gpu" or (accelerator == "auto" and torch.cuda.is_available())
    return torch.device("cuda" if gpu else "cpu")
