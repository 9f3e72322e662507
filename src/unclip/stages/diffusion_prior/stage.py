"""The diffusion prior: z_i from a caption, by predicting x0 = scale * z_i (paper, section 2.2)."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from data_modules.prior import PriorData
from unclip.common.seeding import SampleNoise
from unclip.diffusion.samplers import ANALYTIC
from unclip.embeddings.clip import FrozenClip
from unclip.embeddings.tokens import Tokenizer
from unclip.stages._diffusion.stage import DiffusionStage
from unclip.stages._prior.null_text import told
from unclip.stages._prior.stage import Pair, PriorStage
from unclip.stages.diffusion_prior.config import DiffusionPriorExperiment, PriorSamplerConfig
from unclip.stages.diffusion_prior.fits import fit_standardisation
from unclip.stages.diffusion_prior.network import DiffusionPrior, build_network
from unclip.stages.diffusion_prior.sampling import sample_prior
from unclip.stages.interface import LoadedParents
from unclip.training import strategies
from unclip.training.random import StepRandom


class DiffusionPriorStage(PriorStage, DiffusionStage):
    """Trains a `DiffusionPrior` on the embeddings of a frozen CLIP."""

    fitted: ClassVar[tuple[str, ...]] = ("mean", "std")

    def __init__(self, experiment: DiffusionPriorExperiment, clip: FrozenClip):
        with strategies.building(experiment.trainer):
            net = build_network(experiment, LoadedParents(clip).sizes())
        super().__init__(experiment, net, clip)

    def prepare(self, data: PriorData, device: torch.device) -> None:
        """With ``model.standardise`` fit mean and deviation of z_i."""
        if self.experiment.model.standardise:
            fit_standardisation([self.net, self.ema], self.frozen_clip, data, device)

    @property
    def tokenize(self) -> Tokenizer:
        """See `PriorStage.tokenize`."""
        return Tokenizer(self.experiment.model.context)

    def loss(
        self, net: DiffusionPrior, pair: Pair, rng: StepRandom, *, training: bool
    ) -> dict[str, Tensor]:
        """MSE between predicted and true x0, whole and by timestep quartile.

        Caption and z_t are dropped together; the noised embedding never is.
        """
        at = self.add_noise(net.to_x0(pair.z_i), rng, training=training)
        keep = rng.keep("drop_text", len(at.t), self.experiment.drop_text if training else 0.0)
        text = told(pair.z_t, pair.caption, keep, self.null)
        output, taught = self.asked(net, pair.keys, x_t=at.x_t, t=at.t, **text)
        return self.losses(output, at, taught)

    def draw(self, pair: Pair, noise: SampleNoise) -> Tensor:
        """As the experiment's sampler says."""
        return sample_prior(
            self.sampling_net,
            z_t=pair.z_t,
            caption=pair.caption,
            diffusion=self.experiment.diffusion,
            sampler=self._sampler(),
            noise=noise,
            null=self.null,
        )

    def _sampler(self) -> PriorSamplerConfig:
        """The experiment's; ancestral sampling stands in for analytic, which is fitted later."""
        sampler = self.experiment.sampler
        if sampler.sampler not in ANALYTIC:
            return sampler
        return replace(sampler, sampler="ddpm" if sampler.sampler == "analytic" else "ddim")


def build_stage(
    experiment: DiffusionPriorExperiment, parents: LoadedParents
) -> DiffusionPriorStage:
    """See `unclip.stages.row.Row`."""
    assert parents.clip is not None
    return DiffusionPriorStage(experiment, parents.clip)


def data_module(experiment: DiffusionPriorExperiment, clip: FrozenClip) -> PriorData:
    """See `unclip.stages.row.Row`."""
    return PriorData.of(experiment, clip, tokenize=Tokenizer(experiment.model.context))
