"""How a network is diffused and how it is sampled, as experiment files say it. No torch here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import isfinite
from typing import ClassVar, Literal, get_args

from unclip.common.checks import require, require_choices

ScheduleKind = Literal["cosine", "linear"]
PredictionKind = Literal["x0", "eps", "v"]
FixedVariance = Literal["fixed_small", "fixed_large"]
VarianceKind = Literal["fixed_small", "fixed_large", "learned_range"]
TablePrecision = Literal["float64", "float32"]
TimestepKind = Literal["uniform", "logit_normal", "importance"]
SamplerName = Literal["ddpm", "ddim", "dpmpp_2m", "heun", "ab2"]
PriorSamplerName = Literal["ddpm", "ddim", "analytic", "analytic_ddim", "dpmpp_2m", "heun", "ab2"]
Clip = Literal["none", "static", "dynamic"]

MOST_GUIDANCE = 1000.0  # beyond it float32 overflows long before an image gets better
SAMPLERS: tuple[PriorSamplerName, ...] = get_args(PriorSamplerName)
INVERSIONS = ("guided_diffusion", "inverse_scheduler", "fixed_point")
"""Conventions of `unclip.diffusion.inversion.invert`."""


@dataclass(kw_only=True)
class DiffusionConfig:
    """The forward chain and what the network predicts of it."""

    GONE: ClassVar[dict[str, str]] = {"vb_weight": "this network learns no variance"}
    vb_weight: ClassVar[float] = 1.0

    steps: int = 1000  # T
    schedule: ScheduleKind = "cosine"  # of the betas
    tables: TablePrecision = "float64"  # what it is computed in; float32: as diffusers does it
    prediction: PredictionKind = "x0"  # what the network's first C channels are
    variance: FixedVariance = "fixed_small"  # of a reverse step: fixed_small, beta~; _large, beta
    timesteps: TimestepKind = "uniform"  # which t training visits
    logit_mean: float = 0.0  # logit_normal: m of t/T = sigmoid(m + s n), above 0 = more noise
    logit_std: float = 1.0  # logit_normal: s

    def validate(self) -> None:
        """Raise `UserError` for a chain that cannot be built."""
        require_choices(self, "diffusion")
        require(self.steps >= 2, "diffusion.steps", f"{self.steps} is too few, give 2 or more")
        require(
            self.schedule != "linear" or self.steps > 20,
            "diffusion.steps",
            f"a linear schedule of {self.steps} steps has betas of 1 or more, give 21 or more",
        )
        require(self.logit_std > 0, "diffusion.logit_std", f"{self.logit_std} must be above 0")


@dataclass(kw_only=True)
class ImageDiffusionConfig(DiffusionConfig):
    """The same for a network of images, which may learn its variance: it outputs 2C channels."""

    GONE: ClassVar[dict[str, str]] = {}

    prediction: PredictionKind = "eps"
    variance: VarianceKind = "learned_range"  # type: ignore[assignment]  # arXiv 2102.09672, eq. 15
    vb_weight: float = 1.0  # type: ignore[misc]  # lambda of the vb term, times T/1000

    @property
    def learns_variance(self) -> bool:
        """Whether the network outputs it."""
        return self.variance == "learned_range"

    def validate(self) -> None:
        """Raise `UserError` for a chain that cannot be built."""
        super().validate()
        require(self.vb_weight >= 0, "diffusion.vb_weight", "must not be negative")


@dataclass(kw_only=True)
class SamplerConfig:
    """How a sample is drawn from a trained network."""

    sampler: SamplerName = "ddim"  # a function of `unclip.diffusion.samplers`; ddpm is ancestral
    steps: int | str = 64  # N of T strided, sections as "10,10,3,2,2", fast27, inner63, logsnr16
    eta: float = (
        0.0  # ddim and analytic_ddim: 0 is deterministic, 1 is ancestral with the small variance
    )
    clip: Clip = "none"  # of x0: static clamps to clip_range, dynamic is Imagen's percentile
    clip_range: float = 1.0  # static clamps x0 to [-clip_range, clip_range]

    @property
    def evaluations(self) -> int:
        """Of the network, for one sample."""
        steps = sum(section_counts(self.steps))
        return 2 * steps - 1 if self.sampler == "heun" else steps

    def validate(self) -> None:
        """Raise `UserError` for settings that cannot be sampled with."""
        require_choices(self, "sampler")
        section_counts(self.steps)
        require(0 <= self.eta <= 1, "sampler.eta", f"{self.eta} is not in [0, 1]")
        reach = self.clip_range
        require(
            reach > 0 and isfinite(reach),
            "sampler.clip_range",
            f"{reach} must be a finite number above 0",
        )


@dataclass(kw_only=True)
class GuidedSamplerConfig(SamplerConfig):
    """The same for a network whose conditions can be dropped."""

    guidance: float = 1.0  # classifier-free guidance scale s; 1 is none
    guidance_interval: list[float] | None = None
    # guided only where the noise level √((1-ᾱ)/ᾱ) lies above the first and up to the second

    def validate(self) -> None:
        """Raise `UserError` for settings that cannot be sampled with."""
        super().validate()
        require(
            0 <= self.guidance <= MOST_GUIDANCE,
            "sampler.guidance",
            f"must be in [0, {MOST_GUIDANCE:g}]",
        )
        ends = self.guidance_interval
        require(
            ends is None or (len(ends) == 2 and 0 <= ends[0] < ends[1]),
            "sampler.guidance_interval",
            f"{ends} must be two noise levels such as [0.3, 3], the lower one first",
        )


FAST27 = "fast27"
"""GLIDE's 27 steps for upsampling: sections of 10, 10, 3, 2 and 2 steps, the last at T - 3."""
INNER = "inner"
"""Before a number of steps: evenly between the ends of the chain, of which it has neither."""
LOG_SNR = "logsnr"
"""Before a number of steps: evenly in λ = log(α/σ), with both ends of the chain."""

_COUNT = re.compile("[1-9][0-9]*", re.ASCII)


def section_counts(steps: int | str) -> list[int]:
    """``64`` or ``"64"`` as ``[64]``, ``"10,10,3,2,2"`` as five counts, as which `FAST27` counts.

    ``"inner63"`` counts as ``[63]``, and so does ``"logsnr63"``. Raises `UserError` unless all are
    positive numbers and the last is at least 2: a section of one step holds its first timestep
    only, so the chain would not start from T - 1.
    """
    if steps == FAST27:
        return [10, 10, 3, 2, 2]
    text = str(steps)
    if "," in text:
        parts = [part.strip() for part in text.split(",")]
    else:
        parts = [text.removeprefix(LOG_SNR if text.startswith(LOG_SNR) else INNER)]
    counts = [int(part) for part in parts if _COUNT.fullmatch(part)]
    require(
        len(counts) == len(parts) and counts[-1] >= 2,
        "sampler.steps",
        f"{steps!r} must be a number of steps (2 or more), or counts per section such as"
        f' "10,10,3,2,2" of which the last is 2 or more, {FAST27}, {INNER}63 or {LOG_SNR}16',
    )
    return counts
