"""The x0_errors of Analytic-DPM beside the weights of the artifact that they were fitted to."""

from __future__ import annotations

import json
from pathlib import Path

from unclip.common.artifacts import X0_ERRORS, Artifact
from unclip.common.atomic import atomic_write
from unclip.common.errors import UserError
from unclip.diffusion.config import DiffusionConfig
from unclip.diffusion.samplers import ANALYTIC
from unclip.diffusion.schedules import sampling_schedule
from unclip.stages.diffusion_prior.config import PriorSamplerConfig


def read_x0_errors(artifact: Artifact) -> dict[str, list[float]]:
    """M of Analytic-DPM by ``sampler.steps``, as `write_x0_errors` left it; empty if it did not.

    Raises:
        UserError: the file is damaged, or of other weights.
    """
    file = artifact.path / X0_ERRORS
    if not file.is_file():
        return {}
    try:
        stored = json.loads(file.read_text())
        found = {str(k): [float(v) for v in values] for k, values in stored["errors"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: damaged: {error}; run `unclip fit-variance` again") from None
    if stored.get("sha256") != artifact.sha256:
        raise UserError(f"{file}: fitted to other weights; run `unclip fit-variance` again")
    return found


def find_x0_errors(
    fitted: dict[str, list[float]], sampler: PriorSamplerConfig, diffusion: DiffusionConfig
) -> list[float] | None:
    """M of the steps of ``sampler``; None if it is a sampler that needs none.

    Raises:
        UserError: none is fitted for these steps.
    """
    if sampler.sampler not in ANALYTIC:
        return None
    found = fitted.get(str(sampler.steps))
    steps = len(sampling_schedule(diffusion, sampler.steps))
    if found is None or len(found) != steps:
        known = ", ".join(fitted) or "none"
        raise UserError(
            f"sampler.sampler={sampler.sampler}: no errors are fitted for steps={sampler.steps} "
            f"(fitted: {known}); run `unclip fit-variance` on the prior's artifact"
        )
    return found


def write_x0_errors(artifact: Artifact, x0_errors: dict[str, list[float]]) -> Path:
    """Add them to the artifact; they hold for its weights alone. Returns the file."""
    content = json.dumps({"sha256": artifact.sha256, "errors": x0_errors}, indent=1)
    with atomic_write(artifact.path / X0_ERRORS) as scratch:
        scratch.write_text(content + "\n")
    return artifact.path / X0_ERRORS
