"""Training of the linear map."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from data_modules.toy_prior import ToyPriorData
from unclip.common.seeding import SampleNoise
from unclip.embeddings.clip import FrozenClip
from unclip.stages._prior.stage import Pair, PriorStage
from unclip.stages.interface import LoadedParents
from unclip.stages.toy_prior.config import ToyPriorExperiment
from unclip.stages.toy_prior.network import ToyPrior, build_network
from unclip.stages.toy_prior.sampling import sample_toy
from unclip.training.random import StepRandom


class ToyPriorStage(PriorStage):
    """Mean squared error."""

    def loss(
        self, net: ToyPrior, pair: Pair, rng: StepRandom, *, training: bool
    ) -> dict[str, Tensor]:
        """Between z_i and what the map makes of z_t."""
        return {"loss": F.mse_loss(net(pair.z_t).float(), pair.z_i)}

    def draw(self, pair: Pair, noise: SampleNoise) -> Tensor:
        """As the experiment's sampler says."""
        return sample_toy(self.sampling_net, pair.z_t, self.experiment.sampler, noise)


def build_stage(experiment: ToyPriorExperiment, parents: LoadedParents) -> ToyPriorStage:
    """See `unclip.stages.row.Row`."""
    return ToyPriorStage(experiment, build_network(experiment, parents.sizes()), parents.clip)


def data_module(experiment: ToyPriorExperiment, clip: FrozenClip) -> ToyPriorData:
    """See `unclip.stages.row.Row`."""
    return ToyPriorData.of(experiment, clip, tokenize=clip.model.tokenize)
