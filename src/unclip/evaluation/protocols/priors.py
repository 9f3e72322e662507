"""Evaluates trained priors, and fits the x0_errors that Analytic-DPM samples with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from unclip.common import artifacts
from unclip.common.errors import UserError, article
from unclip.common.moved import locate_parent
from unclip.common.seeds import require_seed
from unclip.diffusion.config import DiffusionConfig
from unclip.diffusion.schedules import sampling_schedule
from unclip.embeddings.clip import FrozenClip
from unclip.evaluation.metrics.priors import Evaluated, evaluate, training_flops
from unclip.pipeline.precision import cast_parameters, choose_precision
from unclip.pipeline.settings import Settings
from unclip.stages import registry
from unclip.stages._prior.part import PriorPart
from unclip.stages.diffusion_prior.config import DiffusionPriorExperiment
from unclip.stages.diffusion_prior.fits import fit_x0_errors
from unclip.stages.diffusion_prior.part import DiffusionPriorPart
from unclip.stages.diffusion_prior.x0_errors import (
    find_x0_errors,
    read_x0_errors,
    write_x0_errors,
)
from unclip.stages.row import CLIP, PRIOR
from unclip.training.one_pass import embedded_batches
from unclip.training.world import device_of


def fit_variance(
    path: Path,
    *,
    steps: list[str] | None,
    samples: int,
    clip: str | None,
    source: str | None,
    precision: str = "32",
) -> list[str]:
    """Fit Analytic-DPM's x0_errors to a diffusion prior and add them to its artifact.

    ``precision`` is the network's, which should be the one that samples; errors are float64.
    """
    artifact = artifacts.describe(path, key="prior")
    if registry.STAGES[artifact.stage].experiment is not DiffusionPriorExperiment:
        raise UserError(
            f"prior={path}: is {article(artifact.stage)}; Analytic-DPM is for a diffusion_prior"
        )
    for each in steps or []:
        try:
            sampling_schedule(artifact.section("diffusion", DiffusionConfig), each)
        except UserError as error:
            raise UserError(
                f"--steps {each}: {str(error).removeprefix('sampler.steps: ')}"
            ) from None
    opened = _open_prior(path, clip=clip, source=source)
    part = opened.part
    assert isinstance(part, DiffusionPriorPart)
    cast_parameters(part.net, choose_precision(precision, opened.device))
    lines = []
    x0_errors = dict(part.x0_errors)
    for wanted in steps or [str(part.sampler.steps)]:
        found = fit_x0_errors(
            part.net,
            opened.clip,
            opened.data,
            opened.device,
            diffusion=part.diffusion,
            sampler=part.sampler,
            steps=wanted,
            samples=samples,
        )
        x0_errors[str(wanted)] = found
        lines.append(f"steps {wanted}: error of x0 from {found[0]:.3g} (t=0) to {found[-1]:.3g}")
    return [*lines, f"kept in {write_x0_errors(opened.artifact, x0_errors)}"]


def evaluate_prior(
    path: Path,
    *,
    title: str,
    n: int,
    batch: int,
    seed: int,
    settings: Settings,
    clip: str | None,
    source: str | None,
) -> Evaluated:
    """Metrics of the prior at ``path`` on ``n`` held-out samples, its size and its cost."""
    require_seed(seed, "seed")
    opened = _open_prior(path, clip=clip, source=source, n=n, batch=batch)
    if len(opened.data.splits.held_out) < 2:
        raise UserError(f"{title}: fewer than 2 held-out samples in its data; raise data.held_out")
    part = replace(opened.part, sampler=settings.apply(PRIOR, opened.part))
    held_out = embedded_batches(
        opened.clip.model, opened.data, device=opened.device, split="held_out", title=title
    )
    pairs = ((some.batch.captions, some.z_i, some.z_t) for some in held_out)
    metrics, seconds = evaluate(part, opened.clip.model, pairs, seed=seed)
    stored = opened.artifact.config
    trained_on = stored["trainer"]["max_steps"] * stored["data"]["batch_size"]
    return Evaluated(
        name=title,
        kind=opened.artifact.stage,
        parameters=sum(p.numel() for p in part.net.parameters()),
        training_flops=training_flops(part, opened.clip.model, samples=trained_on),
        milliseconds=1000 * seconds,
        metrics=metrics._asdict(),
    )


def check_settings(path: Path, settings: Settings) -> None:
    """Refuse what the prior at ``path`` cannot be sampled with, without loading it.

    Raises:
        UserError: a value out of range, or x0_errors that are not fitted.
    """
    settings.apply(PRIOR, _Described(artifacts.describe(path, key=PRIOR)))


class _Described:
    """A prior of which only the artifact's config is read."""

    def __init__(self, artifact: artifacts.Artifact):
        self._artifact = artifact
        row = registry.STAGES[artifact.stage]
        self._experiment: Any = artifact.stored(row.experiment)

    @property
    def sampler(self) -> Any:
        """As the artifact says."""
        return self._experiment.sampler

    def check_sampler(self, sampler: Any) -> None:
        """See `Part.check_sampler`."""
        self._experiment.check_sampler(sampler)
        if isinstance(self._experiment, DiffusionPriorExperiment):
            fitted = read_x0_errors(self._artifact)
            find_x0_errors(fitted, sampler, self._experiment.diffusion)


class _Opened(NamedTuple):
    """A trained prior with what it was trained with."""

    artifact: artifacts.Artifact
    part: PriorPart
    clip: FrozenClip
    data: Any  # PriorData
    device: torch.device


def _open_prior(
    path: Path, *, clip: str | None, source: str | None, n: int | None = None, batch: int = 100
) -> _Opened:
    artifact = artifacts.describe(path, key=PRIOR)
    artifacts.expect(artifact, registry.of_kind(PRIOR), key=PRIOR)
    row = registry.STAGES[artifact.stage]
    experiment: Any = artifact.stored(row.experiment)
    fix = ", or name it by --clip"
    frozen = registry.STAGES[CLIP].load(clip or locate_parent(artifact, CLIP, fix=fix))
    part = row.load(path, frozen)
    data = experiment.data
    if source is not None:
        data.source, data.embeddings = source, None
    data.batch_size = batch
    if n is not None:
        data.val_samples = n
    module = row.data_module(experiment, frozen)
    module.setup()
    device = device_of(experiment.trainer.accelerator)
    part.net.to(device)
    frozen.model.to(device)
    return _Opened(artifact, part, frozen, module, device)
