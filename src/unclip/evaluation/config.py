"""What an evaluation may be told. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from unclip.common.checks import require
from unclip.tracking.config import TrackingConfig
from unclip.training.config import RunConfig


@dataclass(kw_only=True)
class SamplingChanges:
    """How a stage samples, where it should differ from its artifact's own settings."""

    sampler: str | None = None  # ddpm | ddim | analytic | analytic_ddim | dpmpp_2m | heun
    steps: int | str | None = None  # a number, or sections such as "10,10,3,2,2"
    guidance: float | None = None  # classifier-free guidance scale
    eta: float | None = None  # of ddim: 0 is deterministic
    clip: str | None = None  # of x0: none | static | dynamic
    clip_range: float | None = None  # static clamps x0 to [-clip_range, clip_range]
    candidates: int | None = None  # of a prior: sampled per caption, the best is kept
    temperature: float | None = None  # of an autoregressive prior, as are the next three
    top_k: int | None = None
    top_p: float | None = None
    dot_percentile: float | None = None
    noise_level: int | None = None  # of an upsampler

    def given(self) -> dict[str, Any]:
        """The settings that are changed."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(kw_only=True)
class CascadeEvaluation:
    """A trained cascade judged on scenes: it draws held-out captions, the oracle reads them."""

    n: int = 64  # captions
    objects: int = 1  # in each: 1 or 2
    batch: int = 16  # images at a time
    seed: int = 0  # of the captions; image k has the noise of seed k
    prior: SamplingChanges = field(default_factory=SamplingChanges)
    decoder: SamplingChanges = field(default_factory=SamplingChanges)
    upsampler: SamplingChanges = field(default_factory=SamplingChanges)
    run: RunConfig = field(default_factory=RunConfig)  # dir: where results are written
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def validate(self) -> None:
        """Refuse values out of range."""
        require(self.n >= 1, "n", "must be at least 1")
        require(self.batch >= 1, "batch", "must be at least 1")
        require(self.objects in (1, 2), "objects", "must be 1 or 2")
        require(self.seed >= 0, "seed", "must not be negative")
