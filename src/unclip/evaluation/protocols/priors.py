"""What is done with a trained prior besides sampling: fitting its variances, and judging it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch

from unclip.common import artifacts
from unclip.common.errors import UserError
from unclip.embeddings.clip import FrozenClip
from unclip.evaluation.metrics.priors import Evaluated, evaluate, training_flops
from unclip.runs.folders import trained
from unclip.runs.parents import build_data
from unclip.stages import registry
from unclip.stages._part import PRIORS, Part, load_prior
from unclip.stages.clip.part import load_clip
from unclip.stages.diffusion_prior.fits import fit_errors
from unclip.training.one_pass import embedded_batches
from unclip.training.world import device_of


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
        found = fit_errors(
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
    opened = _open_prior(trained(name), clip=clip, source=source, n=n, batch=batch)
    if len(opened.data.splits.held_out) < 2:
        raise UserError(f"{name}: fewer than 2 held-out samples in its data; raise data.held_out")
    part = opened.part
    if steps is not None and part.diffusion is not None:
        part = part.with_steps(steps)
    held_out = embedded_batches(
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
    frozen = load_clip(clip or experiment.clip)  # type: ignore[attr-defined]
    part = load_prior(path, frozen)
    data = experiment.data  # type: ignore[attr-defined]
    if source is not None:
        data.source, data.embeddings = source, None
    data.batch_size = batch
    if n is not None:
        data.val_samples = n
    module = build_data(entry, experiment, frozen)
    module.setup()
    device = device_of(experiment.trainer.accelerator)
    part.net.to(device)
    frozen.model.to(device)
    return _Opened(artifact, part, frozen, module, device)
