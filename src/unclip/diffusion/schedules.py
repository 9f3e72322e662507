"""Noise schedules as float64 tables, for the full chain and for the few steps that are sampled."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unclip.common.devices import widest
from unclip.common.errors import UserError
from unclip.diffusion.config import FAST27, INNER, LOG_SNR, DiffusionConfig, section_counts

DTYPES = {"float64": torch.float64, "float32": torch.float32}
"""By `DiffusionConfig.tables`."""


@dataclass(frozen=True)
class Schedule:
    """One chain of N noise levels. Row k describes the step from level k to k - 1 (or to clean).

    All tables but `timesteps` are float64: a float32 product is 1.3e-5 off at ᾱ_999. With
    ``diffusion.tables=float32`` they are what diffusers' UnCLIPScheduler computes.
    """

    total: int  # T of the full chain
    timesteps: Tensor  # [N] int64, increasing; the *original* t, which the network is given
    alpha_bar: Tensor  # [N]
    alpha_bar_prev: Tensor  # [N], 1 in row 0
    betas: Tensor  # [N], 1 - alpha_bar / alpha_bar_prev; in float32 of one timestep as it was given
    posterior_variance: Tensor  # [N], β̃; 0 in row 0
    log_beta: Tensor  # [N], log β: the largest reverse variance
    log_beta_tilde: Tensor  # [N], log β̃: the smallest; row 0 repeats row 1, where β̃ is not 0

    def __len__(self) -> int:
        return len(self.timesteps)

    @property
    def device(self) -> torch.device:
        """Where the tables lie."""
        return self.alpha_bar.device

    def to(self, device: torch.device | str) -> Schedule:
        """The same schedule with its tables on ``device``."""
        if torch.device(device) == self.device:
            return self
        tables = vars(self).items()
        wide = widest(torch.device(device))
        moved: dict[str, Any] = {
            k: v.to(device, wide if v.dtype == torch.float64 else v.dtype)
            for k, v in tables
            if isinstance(v, Tensor)
        }
        return dataclasses.replace(self, **moved)


def cosine_betas(steps: int) -> Tensor:
    """Betas ``[steps]``, float64, whose products follow a squared cosine.

    Improved DDPM (arXiv 2102.09672), eq. 17, with s = 0.008 and betas capped at 0.999.
    """
    u = torch.arange(steps + 1, dtype=torch.float64) / steps
    f = torch.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1 - f[1:] / f[:-1]).clamp(max=0.999)


def linear_betas(steps: int) -> Tensor:
    """Betas ``[steps]``, float64: 1e-4 to 0.02 at T = 1000 (arXiv 2006.11239), scaled by 1000/T."""
    scale = 1000 / steps
    return torch.linspace(scale * 1e-4, scale * 0.02, steps, dtype=torch.float64)


def full_schedule(config: DiffusionConfig) -> Schedule:
    """The chain of all T steps, which training uses; its row k is timestep k."""
    betas = {"cosine": cosine_betas, "linear": linear_betas}[config.schedule](config.steps)
    betas = betas.to(DTYPES[config.tables])
    timesteps, alpha_bar = torch.arange(config.steps), torch.cumprod(1 - betas, dim=0)
    return _from_alpha_bar(config.steps, timesteps, alpha_bar, betas)


def respace(schedule: Schedule, timesteps: Sequence[int]) -> Schedule:
    """The chain of the given rows of a full ``schedule``: ᾱ is kept exactly, β follows from it."""
    rows = torch.tensor(timesteps, dtype=torch.int64, device=schedule.device)
    if len(rows) < 2 or (rows.diff() <= 0).any():
        raise ValueError("timesteps must be two or more, increasing")
    given = schedule.betas[rows]
    return _from_alpha_bar(
        schedule.total, schedule.timesteps[rows], schedule.alpha_bar[rows], given
    )


def sampling_schedule(config: DiffusionConfig, steps: int | str) -> Schedule:
    """The chain sampled with ``steps`` as `SamplerConfig.steps` gives them."""
    full = full_schedule(config)
    return respace(full, sampling_timesteps(steps, full))


def sampling_timesteps(steps: int | str, full: Schedule) -> list[int]:
    """Increasing timesteps of the ``full`` chain: strided, or strided within equal sections.

    N of T strided is t = round(k (T - 1) / (N - 1)), the one-section case of Improved DDPM's
    respacing. `FAST27` is GLIDE's chain of sections, which steers clear of the noisiest timesteps:
    it begins at T - 3. N `INNER` ones divide the way from -1 to T evenly, rounded down, without its
    ends (dalle2-pytorch's DDIM, whose 64 steps are 63 of these, from 984 to 14). N `LOG_SNR` ones
    are the nearest to even values of λ (DPM-Solver, arXiv 2206.00927, section 3.4). Raises
    `UserError` when a section is asked for more steps than it has.
    """
    counts, total = section_counts(steps), len(full)
    if str(steps).startswith(LOG_SNR) and counts[0] <= total:
        return even_timesteps(torch.logit(full.alpha_bar), counts[0])
    if str(steps).startswith(INNER) and counts[0] <= total:
        return [k * (total + 1) // (counts[0] + 1) - 1 for k in range(1, counts[0] + 1)]
    size, longer = divmod(total, len(counts))
    timesteps: list[int] = []
    start = 0
    for section, count in enumerate(counts):
        length = size + (section < longer)
        if count > length:
            raise UserError(
                f"sampler.steps: {count} steps do not fit into a section of {length} timesteps"
                f" (diffusion.steps={total}); give fewer"
            )
        gaps = max(count - 1, 1)
        timesteps += [start + round(k * (length - 1) / gaps) for k in range(count)]
        start += length
    if steps == FAST27:
        timesteps[-1] = total - 3
    return timesteps


def even_timesteps(levels: Tensor, count: int) -> list[int]:
    """The timesteps nearest to ``count`` even values from end to end of ``levels``, none twice."""
    wanted = torch.linspace(levels[0].item(), levels[-1].item(), count, dtype=levels.dtype)
    nearest = (levels - wanted[:, None]).abs().argmin(1).tolist()
    for k in range(1, count):
        nearest[k] = max(nearest[k], nearest[k - 1] + 1)
    for k in range(count):
        nearest[k] = min(nearest[k], len(levels) - count + k)
    return nearest


def _from_alpha_bar(total: int, timesteps: Tensor, alpha_bar: Tensor, given: Tensor) -> Schedule:
    """Tables of ᾱ; ``given`` are the full chain's β of these timesteps."""
    alpha_bar_prev = torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])
    betas = 1 - alpha_bar / alpha_bar_prev
    if alpha_bar.dtype == torch.float32:  # whose quotient has lost the digits of a small β
        before = torch.cat([timesteps.new_full((1,), -1), timesteps[:-1]])
        betas = torch.where(timesteps - before == 1, given, betas)
    # DDPM (arXiv 2006.11239), eq. 7: β̃ = β (1 - ᾱ_prev) / (1 - ᾱ)
    posterior_variance = betas * (1 - alpha_bar_prev) / (1 - alpha_bar)
    log_beta_tilde = torch.cat([posterior_variance[1:2], posterior_variance[1:]]).log()
    return Schedule(
        total=total,
        timesteps=timesteps,
        alpha_bar=alpha_bar,
        alpha_bar_prev=alpha_bar_prev,
        betas=betas,
        posterior_variance=posterior_variance,
        log_beta=betas.log(),
        log_beta_tilde=log_beta_tilde,
    )
