"""How a network is diffused and how it is sampled, as experiment files say it. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from unclip.common.errors import UserError


def _require(condition: bool, key: str, message: str) -> None:
    if not condition:
        raise UserError(f"{key}: {message}")


def _require_one_of(value: str, choices: tuple[str, ...], key: str) -> None:
    _require(value in choices, key, f"{value!r} must be one of {', '.join(choices)}")


@dataclass(kw_only=True)
class DiffusionConfig:
    """The forward chain and what the network predicts of it."""

    steps: int = 1000  # T
    schedule: str = "cosine"  # cosine | linear
    prediction: str = "x0"  # x0 | eps | v: what the network's first C channels are
    variance: str = "fixed_small"  # fixed_small (beta~) | fixed_large (beta) | learned_range
    vb_weight: float = 1.0  # lambda of the vb term, which is further scaled by T/1000
    timesteps: str = "uniform"  # uniform | logit_normal | importance: which t training visits
    logit_mean: float = 0.0  # logit_normal: m of t/T = sigmoid(m + s n), above 0 = more noise
    logit_std: float = 1.0  # logit_normal: s

    def validate(self) -> None:
        """Raise `UserError` for a chain that cannot be built."""
        _require(self.steps >= 2, "diffusion.steps", f"{self.steps} is too few, give 2 or more")
        _require_one_of(self.schedule, ("cosine", "linear"), "diffusion.schedule")
        _require(
            self.schedule != "linear" or self.steps > 20,
            "diffusion.steps",
            f"a linear schedule of {self.steps} steps has betas of 1 or more, give 21 or more",
        )
        _require_one_of(self.prediction, ("x0", "eps", "v"), "diffusion.prediction")
        _require_one_of(
            self.variance, ("fixed_small", "fixed_large", "learned_range"), "diffusion.variance"
        )
        _require(self.vb_weight >= 0, "diffusion.vb_weight", "must not be negative")
        _require_one_of(
            self.timesteps, ("uniform", "logit_normal", "importance"), "diffusion.timesteps"
        )
        _require(self.logit_std > 0, "diffusion.logit_std", f"{self.logit_std} must be above 0")


Clip = Literal["none", "static", "dynamic"]
SAMPLERS = ("ddpm", "ddim", "analytic", "analytic_ddim", "dpmpp_2m", "heun")


@dataclass(kw_only=True)
class SamplerConfig:
    """How a sample is drawn from a trained network."""

    sampler: str = "ddim"  # ddpm (ancestral) | ddim | analytic | analytic_ddim | dpmpp_2m | heun
    steps: int | str = 64  # strided to N of T, or sections such as "10,10,3,2,2"
    eta: float = (
        0.0  # ddim and analytic_ddim: 0 is deterministic, 1 is ancestral with the small variance
    )
    clip: Clip = (
        "none"  # of x0: none | static (clamp to clip_range) | dynamic (Imagen's percentile)
    )
    clip_range: float = 1.0  # static clamps x0 to [-clip_range, clip_range]

    def validate(self) -> None:
        """Raise `UserError` for settings that cannot be sampled with."""
        _require_one_of(self.sampler, SAMPLERS, "sampler.sampler")
        section_counts(self.steps)
        _require(0 <= self.eta <= 1, "sampler.eta", f"{self.eta} is not in [0, 1]")
        _require_one_of(self.clip, ("none", "static", "dynamic"), "sampler.clip")
        _require(self.clip_range > 0, "sampler.clip_range", f"{self.clip_range} must be above 0")


@dataclass(kw_only=True)
class GuidedSamplerConfig(SamplerConfig):
    """The same for a network whose conditions can be dropped."""

    guidance: float = 1.0  # classifier-free guidance scale s; 1 is none

    def validate(self) -> None:
        """Raise `UserError` for settings that cannot be sampled with."""
        super().validate()
        _require(self.guidance >= 0, "sampler.guidance", "must not be negative")


def section_counts(steps: int | str) -> list[int]:
    """``64`` or ``"64"`` as ``[64]``, ``"10,10,3,2,2"`` as five counts.

    Raises `UserError` unless all are positive numbers and the last is at least 2: a section of one
    step holds its first timestep only, so the chain would not start from T - 1.
    """
    try:
        counts = [int(part) for part in str(steps).split(",")]
    except ValueError:
        counts = []
    _require(
        len(counts) > 0 and min(counts) >= 1 and counts[-1] >= 2,
        "sampler.steps",
        f"{steps!r} must be a number of steps (2 or more), or counts per section such as"
        ' "10,10,3,2,2" of which the last is 2 or more',
    )
    return counts
