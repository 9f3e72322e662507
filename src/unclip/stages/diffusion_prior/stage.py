"""The diffusion prior: z_i from a caption, by predicting x0 = scale * z_i (paper, section 2.2)."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from unclip.common.seeding import SampleNoise
from unclip.diffusion.samplers import ANALYTIC
from unclip.embeddings.clip import FrozenClip
from unclip.stages._diffusion.stage import DiffusionStage
from unclip.stages._prior.stage import Pair, PriorStage
from unclip.stages.diffusion_prior.config import DiffusionPriorExperiment, PriorSamplerConfig
from unclip.stages.diffusion_prior.network import DiffusionPrior
from unclip.stages.diffusion_prior.sampling import sample_prior
from unclip.training.random import StepRandom


class DiffusionPriorStage(PriorStage, DiffusionStage):
    """Trains a `DiffusionPrior` on the embeddings of a frozen CLIP."""

    def __init__(self, experiment: DiffusionPriorExperiment, clip: FrozenClip):
        net = DiffusionPrior(experiment.model, clip.model.embed_dim, clip.model.text_width)
        super().__init__(experiment, net, clip)

    def loss(
        self, net: DiffusionPrior, pair: Pair, draws: StepRandom, *, training: bool
    ) -> dict[str, Tensor]:
        """MSE between predicted and true x0, whole and by timestep quartile.

        Caption and z_t are dropped together; the noised embedding never is.
        """
        at = self.noised(net.to_x0(pair.z_i), draws, training=training)
        keep = draws.keep("drop_text", len(at.t), self.experiment.drop_text if training else 0.0)
        output = net(at.x_t, at.t, z_t=pair.z_t, caption=pair.caption, keep=keep)
        return self.losses(output, at)

    def draw(self, pair: Pair, noise: SampleNoise) -> Tensor:
        """As the experiment's sampler says."""
        return sample_prior(
            self.sampling_net,
            z_t=pair.z_t,
            caption=pair.caption,
            diffusion=self.experiment.diffusion,
            sampler=self._sampler(),
            noise=noise,
        )

    def _sampler(self) -> PriorSamplerConfig:
        """The experiment's; ancestral sampling stands in for analytic, which is fitted later."""
        sampler = self.experiment.sampler
        if sampler.sampler not in ANALYTIC:
            return sampler
        return replace(sampler, sampler="ddpm" if sampler.sampler == "analytic" else "ddim")
