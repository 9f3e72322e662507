"""Training of LAION's diffusion prior: z_i from a caption, by predicting x0 = √D · z_i."""

from __future__ import annotations

from torch import Tensor

from data_modules.prior import PriorData
from unclip.common.seeding import SampleNoise
from unclip.embeddings.clip import FrozenClip
from unclip.embeddings.tokens import Tokenizer
from unclip.stages._diffusion.stage import DiffusionStage
from unclip.stages._prior.diffusion_sampling import sample_prior
from unclip.stages._prior.stage import Pair, PriorStage
from unclip.stages.interface import LoadedParents
from unclip.stages.laion_prior.config import LaionPriorExperiment
from unclip.stages.laion_prior.network import LaionPrior, build_network
from unclip.training import strategies
from unclip.training.random import StepRandom


class LaionPriorStage(PriorStage, DiffusionStage):
    """Trains a `LaionPrior` on the embeddings of a frozen CLIP."""

    def __init__(self, experiment: LaionPriorExperiment, clip: FrozenClip):
        with strategies.building(experiment.trainer):
            net = build_network(experiment, LoadedParents(clip).sizes())
        super().__init__(experiment, net, clip)

    @property
    def tokenize(self) -> Tokenizer:
        """See `PriorStage.tokenize`."""
        return self.frozen_clip.model.tokenize

    def loss(
        self, net: LaionPrior, pair: Pair, rng: StepRandom, *, training: bool
    ) -> dict[str, Tensor]:
        """MSE between predicted and true x0, whole and by timestep quartile.

        Caption and z_t are dropped together, the noised embedding on its own.
        """
        at = self.add_noise(net.to_x0(pair.z_i), rng, training=training)
        keep, keep_x_t = (
            rng.keep(name, len(at.t), getattr(self.experiment, name) if training else 0.0)
            for name in ("drop_text", "drop_x_t")
        )
        told = {"z_t": pair.z_t, "caption": pair.caption, "keep": keep, "keep_x_t": keep_x_t}
        output, taught = self.asked(net, pair.keys, x_t=at.x_t, t=at.t, **told)
        return self.losses(output, at, taught)

    def draw(self, pair: Pair, noise: SampleNoise) -> Tensor:
        """As the experiment's sampler says."""
        return sample_prior(
            self.sampling_net,
            z_t=pair.z_t,
            caption=pair.caption,
            diffusion=self.experiment.diffusion,
            sampler=self.experiment.sampler,
            noise=noise,
        )


def build_stage(experiment: LaionPriorExperiment, parents: LoadedParents) -> LaionPriorStage:
    """See `unclip.stages.row.Row`."""
    assert parents.clip is not None
    return LaionPriorStage(experiment, parents.clip)


def data_module(experiment: LaionPriorExperiment, clip: FrozenClip) -> PriorData:
    """See `unclip.stages.row.Row`."""
    return PriorData.of(experiment, clip, tokenize=clip.model.tokenize)
