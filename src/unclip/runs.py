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
import yaml

from data_modules.base import StageData
from unclip import artifacts, config, fits, registry
from unclip.builders import build_data, build_stage, fit_to_clip, fit_to_codec, load_codec
from unclip.evaluation import spectrum
from unclip.models.clip import FrozenClip
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
    leans_on = parents(resolved, with_parents=with_parents)
    folder = _shared_folder() or run_folder(resolved, resume=resume, force=force)
    os.environ[_FOLDER] = str(folder)  # Lightning's further processes run the same command
    checkpoint = newest_checkpoint(folder) if resume else None
    data, stage = assemble(resolved, leans_on, resumed=folder if checkpoint else None)
    if not _shared_folder():
        resuming = f", resuming {checkpoint.name}" if checkpoint else ""
        print(f"{resolved.name}: {folder}{resuming}", flush=True)
        _write_experiment(folder, resolved)
    try:
        return _fit(resolved, stage, data, folder, checkpoint)
    finally:
        os.environ.pop(_FOLDER, None)


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
    clip = _resolve(resolved, "clip", with_parents=with_parents)
    return Parents(clip, _resolve(resolved, "pca", with_parents=with_parents, clip=clip))


def assemble(
    resolved: config.Resolved, leans_on: Parents, *, resumed: Path | None = None
) -> tuple[StageData, Stage]:
    """Data and stage of an experiment; sizes that its parents decide are filled in.

    ``resumed`` is the folder of the run whose checkpoint the stage will load.
    """
    experiment = resolved.config
    _quiet()
    L.seed_everything(experiment.trainer.seed, workers=True, verbose=False)
    clip = artifacts.load_clip(leans_on.clip) if leans_on.clip else None
    if clip is not None:
        experiment.clip = leans_on.clip
        fit_to_clip(experiment, clip)
    if clip is not None and leans_on.pca is not None:
        experiment.pca = leans_on.pca
        fit_to_codec(experiment, load_codec(leans_on.pca, clip))
    data = build_data(resolved.stage, experiment, clip)
    data.setup()
    if resumed is not None:
        _same_model(resumed, experiment)
    stage = build_stage(resolved.stage, experiment, clip)
    if resumed is None and getattr(experiment.model, "standardise", False):
        assert clip is not None
        device = fits.device_of(experiment.trainer.accelerator)
        fits.fit_standardisation([stage.net, stage.ema], clip, data, device)  # type: ignore[arg-type]
    return data, stage


def _shared_folder() -> Path | None:
    """The run's folder, in a process that another one started to train along."""
    if int(os.environ.get("LOCAL_RANK", 0)) == 0:
        return None
    if _FOLDER not in os.environ:
        raise UserError(
            "trainer.devices: unclip train starts its own processes; run it without torchrun and "
            "say how many here"
        )
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


def trained(name: str) -> Path:
    """The folder of an artifact or run, or the newest artifact of the experiment ``name``."""
    if Path(name).is_dir():
        return Path(name)
    registry.find(name)
    found = newest_artifact(name)
    if found is None:
        raise UserError(f"{name}: no finished run in {Path('runs') / name}; train it first")
    return found


def fit_pca(resolved: config.Resolved, *, force: bool = False, with_parents: bool = False) -> Path:
    """Fit a PCA codec and export it; returns the artifact.

    The run's folder also gets ``spectrum.png`` and ``errors.csv``. Under torchrun the processes
    share the samples, and the first one writes.
    """
    experiment = resolved.config
    rank = fits.join_processes()
    spec = _resolve(resolved, "clip", with_parents=with_parents)
    assert spec is not None
    clip = artifacts.load_clip(spec)
    experiment.clip = spec
    data = build_data(resolved.stage, experiment, clip)
    data.setup()
    device = fits.device_of(experiment.trainer.accelerator)
    fitted = fits.fit_pca(experiment.pca, clip, data, device)  # type: ignore[arg-type]
    if rank > 0:
        raise SystemExit  # the first process does the rest
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
