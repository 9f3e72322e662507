"""What the stages that train a diffusion network share: the chain, its draws and its losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed, nn

from unclip.diffusion.importance import LossHistory
from unclip.diffusion.losses import diffusion_loss
from unclip.diffusion.process import q_sample
from unclip.diffusion.schedules import full_schedule
from unclip.diffusion.timesteps import timesteps_of
from unclip.embeddings.clip import FrozenClip
from unclip.stages._diffusion.known import known_channels, random_keep
from unclip.stages._diffusion.teaching import Taught, Teacher
from unclip.training.means import quartiles
from unclip.training.random import StepRandom
from unclip.training.stage import Stage


class NoisedBatch(NamedTuple):
    """x0 ``[B, ...]`` and what the forward chain made of it."""

    x0: Tensor
    noise: Tensor
    t: Tensor  # [B]
    x_t: Tensor
    weight: Tensor | None = (
        None  # [B], of each sample's loss; none where timesteps are not weighted
    )


class DiffusionStage(Stage):
    """A `Stage` whose experiment has a ``diffusion`` section."""

    def __init__(self, experiment: Any, net: nn.Module, clip: FrozenClip | None = None):
        super().__init__(experiment, net, clip)
        self.schedule = full_schedule(experiment.diffusion)
        self.history: LossHistory | None = None  # beside the network: checkpoints hold it alone
        if experiment.diffusion.timesteps == "importance":
            self.history = LossHistory(experiment.diffusion.steps)
        self._seen: list[tuple[Tensor, Tensor]] = []  # t and losses of this step's micro-batches
        self._teacher: Teacher | None = None

    def on_fit_start(self) -> None:
        """Bring the noise tables to the device, and the frozen CLIP."""
        super().on_fit_start()
        self.schedule = self.schedule.to(self.device)
        if self._teacher is not None:
            self._teacher.to(self.device)

    def begun(self) -> None:
        """See `Stage.begun`."""
        source = self.experiment.init_teaches
        if source is not None:
            self._teacher = Teacher(self.net, source, adapted=self.is_adapted)

    def asked(self, net: Any, keys: Sequence[str], **given: Any) -> tuple[Tensor, Taught | None]:
        """What ``net`` says of the batch with these keys, and in training what its teacher does.

        ``given`` are the network's arguments (`ask`), each with a row for each sample.
        """
        taught = None
        if self._teacher is not None and net is self.net:
            taught = self._teacher.says(self.ask, net, keys, given, self.device)
        return self.ask(net, **given), taught

    @staticmethod
    def ask(net: Any, **given: Any) -> Tensor:
        """What ``net`` says of what it is given: ``[B, C or 2C, ...]``."""
        return net(**given)

    def add_noise(self, x0: Tensor, rng: StepRandom, *, training: bool) -> NoisedBatch:
        """``x0`` at drawn timesteps; validation draws them evenly, whatever training does."""
        t, weight = self._timesteps(rng.uniform("t", len(x0)), training=training)
        noise = rng.normal("noise", x0.shape)
        return NoisedBatch(x0, noise, t, q_sample(x0, noise, t, schedule=self.schedule), weight)

    def known(self, image: Tensor, rng: StepRandom) -> Tensor | None:
        """What an inpainting network is told of ``image`` ``[B, 3, H, H]``; else None."""
        if not self.experiment.model.inpaint:
            return None
        keep = random_keep(rng.uniform("known", len(image), 5), image.shape[-1])
        return known_channels(image, keep)

    def _timesteps(self, u: Tensor, *, training: bool) -> tuple[Tensor, Tensor | None]:
        diffusion = self.experiment.diffusion
        if training and self.history is not None:
            return self.history.draw(u)
        if not training:
            diffusion = replace(diffusion, timesteps="uniform")
        return timesteps_of(u, diffusion), None

    def losses(
        self, output: Tensor, at: NoisedBatch, taught: Taught | None = None
    ) -> dict[str, Any]:
        """Means over the batch: ``loss`` trains; its parts, and the MSE by quarter of t.

        Of the samples that are taught, ``loss`` is the distance to the teacher's output.

        Where timesteps are drawn by importance, the means are weighted back to even ones, and the
        losses of all processes go into the history at the end of the step, so that all its
        micro-batches draw by the same one; the quarters' means are not weighted.
        """
        terms = diffusion_loss(
            output,
            x0=at.x0,
            x_t=at.x_t,
            t=at.t,
            noise=at.noise,
            schedule=self.schedule,
            config=self.experiment.diffusion,
        )
        weight: Tensor | float = 1.0
        loss = terms.loss
        if taught is not None:
            loss = loss.index_copy(0, taught.rows, taught.gap(output, at.x_t.shape[1]))
        if self.history is not None and at.weight is not None:
            self._seen.append(of_all_processes(at.t, loss))
            if self.completes_step:
                self.history.update(*(torch.cat(parts) for parts in zip(*self._seen)))
                self._seen.clear()
            weight = at.weight
        values = {"loss": (weight * loss).mean()}
        if terms.vb is not None:
            values |= {"mse": (weight * terms.mse).mean(), "vb": (weight * terms.vb).mean()}
        return values | quartiles(terms.mse.detach(), at.t, len(self.schedule))


def of_all_processes(t: Tensor, loss: Tensor) -> tuple[Tensor, Tensor]:
    """Timesteps and losses ``[B]`` of every process, in the order of the global batch.

    One exchange; row i of process r is sample ``i * world + r`` (see `StepRandom`).
    """
    together = distributed.is_available() and distributed.is_initialized()
    world = distributed.get_world_size() if together else 1
    if world == 1:
        return t, loss.detach()
    mine = torch.stack([t.double(), loss.detach().double()], dim=1)
    parts = [torch.empty_like(mine) for _ in range(world)]
    distributed.all_gather(parts, mine)
    t_all, loss_all = torch.stack(parts, dim=1).flatten(0, 1).unbind(dim=1)
    return t_all.long(), loss_all
