"""What the stages that train a diffusion network share: the chain, its draws and its losses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from torch import Tensor, nn

from unclip.diffusion.losses import diffusion_loss
from unclip.diffusion.process import q_sample
from unclip.diffusion.schedules import full_schedule
from unclip.diffusion.timesteps import timesteps_of
from unclip.models.clip import FrozenClip
from unclip.training.random import StepRandom
from unclip.training.stage import Stage, quartiles


class Noised(NamedTuple):
    """x0 ``[B, ...]`` and what the forward chain made of it."""

    x0: Tensor
    noise: Tensor
    t: Tensor  # [B]
    x_t: Tensor


class DiffusionStage(Stage):
    """A `Stage` whose experiment has a ``diffusion`` section."""

    def __init__(self, experiment: Any, net: nn.Module, clip: FrozenClip | None = None):
        super().__init__(experiment, net, clip)
        self.schedule = full_schedule(experiment.diffusion)

    def on_fit_start(self) -> None:
        """Bring the noise tables to the device, and the frozen CLIP."""
        super().on_fit_start()
        self.schedule = self.schedule.to(self.device)

    def noised(self, x0: Tensor, draws: StepRandom, *, training: bool) -> Noised:
        """``x0`` at drawn timesteps; validation draws them evenly, whatever training does."""
        diffusion = self.experiment.diffusion
        if not training:
            diffusion = replace(diffusion, timesteps="uniform")
        t = timesteps_of(draws.uniform("t", len(x0)), diffusion)
        noise = draws.normal("noise", x0.shape)
        return Noised(x0, noise, t, q_sample(x0, noise, t, schedule=self.schedule))

    def losses(self, output: Tensor, at: Noised) -> dict[str, Tensor]:
        """Means over the batch: ``loss`` trains; its parts, and the MSE by quarter of t."""
        terms = diffusion_loss(
            output,
            x0=at.x0,
            x_t=at.x_t,
            t=at.t,
            noise=at.noise,
            schedule=self.schedule,
            config=self.experiment.diffusion,
        )
        values = {"loss": terms.loss.mean()}
        if terms.vb is not None:
            values |= {"mse": terms.mse.mean(), "vb": terms.vb.mean()}
        return values | quartiles(terms.mse.detach(), at.t, len(self.schedule))
