"""The diffusion prior: z_i from a caption, by predicting x0 = scale * z_i (paper, section 2.2)."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from torch import Tensor

from unclip.diffusion.samplers import ANALYTIC
from unclip.models.clip import FrozenClip
from unclip.models.configs import PriorSamplerConfig
from unclip.models.diffusion_prior import DiffusionPrior
from unclip.models.sampling import sample_prior
from unclip.seeding import SampleNoise
from unclip.stages.configs import DiffusionPriorExperiment
from unclip.stages.diffusion import DiffusionStage
from unclip.stages.prior import Pair, encode, judge
from unclip.training.random import StepRandom
from unclip.training.stage import Look, Quality
from unclip.types import PriorBatch


class DiffusionPriorStage(DiffusionStage):
    """Trains a `DiffusionPrior` on the embeddings of a frozen CLIP."""

    quality: ClassVar[Quality] = Quality("val/cosine", "higher")

    def __init__(self, experiment: DiffusionPriorExperiment, clip: FrozenClip):
        net = DiffusionPrior(experiment.model, clip.model.embed_dim, clip.model.text_width)
        super().__init__(experiment, net, clip)

    def encode(self, batch: PriorBatch) -> Pair:
        """The batch as the frozen CLIP sees it."""
        return encode(
            self.frozen_clip.model, batch, features=self.experiment.model.caption == "clip"
        )

    def loss(
        self, net: DiffusionPrior, pair: Pair, draws: StepRandom, *, training: bool
    ) -> dict[str, Tensor]:
        """MSE between predicted and true x0, whole and by timestep quartile."""
        at = self.noised(net.to_x0(pair.z_i), draws, training=training)
        keep = draws.keep("drop_text", len(at.t), self.experiment.drop_text if training else 0.0)
        output = net(at.x_t, at.t, z_t=pair.z_t, caption=pair.caption, keep=keep)
        return self.losses(output, at)

    def training_step(self, batch: PriorBatch, batch_idx: int) -> Tensor:
        """Caption and z_t are dropped together; the noised embedding never is."""
        pair = self.encode(batch)
        net: DiffusionPrior = self.net  # type: ignore[assignment]
        values = self.loss(net, pair, self.draws(batch_idx), training=True)
        self.log_loss("train", values, len(pair.z_i))
        return values["loss"]

    def validation_step(self, batch: PriorBatch, batch_idx: int) -> None:
        """The same loss with the averaged weights, nothing dropped, the same noise every time."""
        pair = self.encode(batch)
        draws = self.validation_draws(batch_idx)
        values = self.loss(self.sampling_net, pair, draws, training=False)
        self.log_loss("val", values, len(pair.z_i))

    def look(self, batch: PriorBatch) -> Look:
        """Sampled embeddings against the true ones: cosine, and rank of the true image."""
        pair = self.encode(batch)
        found = sample_prior(
            self.sampling_net,
            z_t=pair.z_t,
            caption=pair.caption,
            diffusion=self.experiment.diffusion,
            sampler=self._sampler(),
            noise=SampleNoise(range(len(pair.z_t))),
        )
        return judge(found, pair, batch)

    def _sampler(self) -> PriorSamplerConfig:
        """The experiment's; ancestral sampling stands in for analytic, which is fitted later."""
        sampler = self.experiment.sampler
        if sampler.sampler not in ANALYTIC:
            return sampler
        return replace(sampler, sampler="ddpm" if sampler.sampler == "analytic" else "ddim")
