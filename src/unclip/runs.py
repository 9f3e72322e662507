"""One training run: from a resolved experiment to an exported artifact."""

from __future__ import annotations

import dataclasses
import json
import logging
import secrets
import shutil
import time
import warnings
from datetime import datetime
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml

from data_modules.base import StageData
from unclip import artifacts, config, registry
from unclip.models.clip import FrozenClip, Tokenizer
from unclip.tracking.local import JsonlLogger
from unclip.tracking.provenance import collect
from unclip.tracking.report import Finished
from unclip.training.callbacks import Samples, Throughput, peak_memory_bytes
from unclip.training.ema import EmaCallback
from unclip.training.stage import Stage
from unclip.training.trainer import build, newest_checkpoint
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
    experiment = resolved.config
    parent = _resolve_clip(resolved, with_parents=with_parents)
    folder = run_folder(resolved, resume=resume, force=force)
    checkpoint = newest_checkpoint(folder) if resume else None
    _quiet()
    L.seed_everything(experiment.trainer.seed, workers=True, verbose=False)
    clip = artifacts.load_clip(parent) if parent else None
    if clip is not None:
        experiment.clip = parent
        fit_to_clip(experiment, clip)
    data = build_data(resolved.stage, experiment, clip)
    data.setup()
    if checkpoint is not None:
        _same_model(folder, experiment)
    print(f"{resolved.name}: {folder}" + (f", resuming {checkpoint.name}" if checkpoint else ""))
    stage = build_stage(resolved.stage, experiment, clip)
    _write_experiment(folder, resolved)
    return _fit(resolved, stage, data, folder, checkpoint)


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


def build_stage(entry: registry.StageEntry, experiment: Any, clip: FrozenClip | None) -> Stage:
    """The LightningModule of a stage, freshly initialised."""
    if entry.name == "clip":
        from unclip.stages.clip import ClipStage

        return ClipStage(experiment)
    if entry.name == "upsampler":
        from unclip.stages.upsampler import UpsamplerStage

        return UpsamplerStage(experiment)
    assert clip is not None
    if entry.name == "diffusion_prior":
        from unclip.stages.diffusion_prior import DiffusionPriorStage

        return DiffusionPriorStage(experiment, clip)
    from unclip.stages.decoder import DecoderStage

    return DecoderStage(experiment, clip)


def build_data(entry: registry.StageEntry, experiment: Any, clip: FrozenClip | None) -> StageData:
    """The LightningDataModule of a stage."""
    common: dict[str, Any] = {
        "seed": experiment.trainer.seed,
        "accumulate": experiment.trainer.accumulate,
    }
    if entry.name == "clip":
        from data_modules.clip import ClipData

        return ClipData(
            experiment.data,
            image_size=experiment.model.image_size,
            tokenize=Tokenizer(experiment.model.context),
            **common,
        )
    if entry.name == "upsampler":
        from data_modules.upsampler import UpsamplerData

        return UpsamplerData(experiment.data, image_size=experiment.model.image_size, **common)
    assert clip is not None
    from_clip: dict[str, Any] = {
        "clip_image_size": clip.model.image_size,
        "clip_tokenize": clip.model.tokenize,
    }
    if entry.name == "diffusion_prior":
        from data_modules.prior import PriorData

        own = Tokenizer(experiment.model.context)
        return PriorData(experiment.data, tokenize=own, **from_clip, **common)
    from data_modules.decoder import DecoderData

    return DecoderData(
        experiment.data,
        image_size=experiment.model.image_size,
        tokenize=Tokenizer(experiment.model.text.context),
        **from_clip,
        **common,
    )


def fit_to_clip(experiment: Any, clip: FrozenClip) -> None:
    """Fill in the sizes that the CLIP decides; refuse those that contradict it."""
    model = experiment.model
    if model.embed_dim not in (None, clip.model.embed_dim):
        raise UserError(
            f"model.embed_dim={model.embed_dim}: the CLIP {clip.source} has "
            f"{clip.model.embed_dim}; give that or null"
        )
    model.embed_dim = clip.model.embed_dim
    if getattr(model, "caption", None) == "clip":
        width = clip.model.text_width
        if model.clip_text_width not in (None, width):
            raise UserError(
                f"model.clip_text_width={model.clip_text_width}: the CLIP {clip.source} has "
                f"{width}; give that or null"
            )
        model.clip_text_width = width
        model.context = clip.model.context


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


def _resolve_clip(resolved: config.Resolved, *, with_parents: bool) -> str | None:
    """What `artifacts.load_clip` can load, for the experiment's ``clip`` field."""
    spec: str | None = getattr(resolved.config, "clip", None)
    if spec is None or spec.startswith("open_clip:") or Path(spec).is_dir():
        return spec
    if not spec.startswith("clip/"):
        artifacts.describe(spec, key="clip")  # raises, saying what is missing
    root = resolved.config.run.root
    finished = sorted((Path(root) / spec).glob("*/artifact/artifact.json"))
    if finished:
        return str(finished[-1].parent)
    if not with_parents:
        name = spec.removeprefix("clip/")
        raise UserError(
            f"clip={spec}: no finished run in {Path(root) / spec}; run `make train-clip "
            f"EXP={name}` first, add --with-parents, or name an artifact or open_clip:ARCH/TAG"
        )
    registry.find(spec)
    print(f"{resolved.name} leans on {spec}, which has no finished run: training it first")
    seed = f"trainer.seed={resolved.config.trainer.seed}"
    finished_run = train(config.load(spec, [f"run.root={root}", seed]))
    return str(finished_run.artifact)


def clip_dims(spec: str) -> dict[str, int]:
    """D and W of the CLIP an experiment names, without loading weights."""
    if spec.startswith("open_clip:"):
        from unclip.models.clip import open_clip_dims

        return open_clip_dims(spec)
    if spec.startswith("clip/") and not Path(spec).is_dir():
        model = config.load(spec).config.model
        return {"embed_dim": model.embed_dim, "text_width": model.text_width}
    model = artifacts.describe(spec, key="clip").config["model"]
    return {"embed_dim": model["embed_dim"], "text_width": model["text_width"]}


def count_parameters(resolved: config.Resolved) -> int:
    """Trainable parameters, from a network built on the meta device."""
    model = resolved.config.model
    with torch.device("meta"):
        net: torch.nn.Module
        if resolved.stage.name == "clip":
            from unclip.models.clip import Clip

            net = Clip.from_config(model)
        elif resolved.stage.name == "upsampler":
            from unclip.models.upsampler import Upsampler

            net = Upsampler(model)
        else:
            dims = clip_dims(resolved.config.clip)
            embed_dim = model.embed_dim or dims["embed_dim"]
            if resolved.stage.name == "diffusion_prior":
                from unclip.models.diffusion_prior import DiffusionPrior

                net = DiffusionPrior(model, embed_dim, model.clip_text_width or dims["text_width"])
            else:
                from unclip.models.decoder import Decoder

                net = Decoder(model, embed_dim)
    return sum(p.numel() for p in net.parameters())
