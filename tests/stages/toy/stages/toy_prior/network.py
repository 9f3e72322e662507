"""The linear map."""

from __future__ import annotations

from torch import Tensor, nn

from unclip.stages.experiment import ParentSizes
from unclip.stages.interface import Given, Needs, Share
from unclip.stages.toy_prior.config import ToyPriorConfig, ToyPriorExperiment


class ToyPrior(nn.Module):
    """From z_t to z_i, not normalised."""

    def __init__(self, config: ToyPriorConfig, embed_dim: int):
        super().__init__()
        self.config = config
        self.map = nn.Linear(embed_dim, embed_dim, bias=config.bias)

    def forward(self, z_t: Tensor) -> Tensor:
        """``[B, D]`` to ``[B, D]``."""
        return self.map(z_t)


def build_network(experiment: ToyPriorExperiment, sizes: ParentSizes) -> ToyPrior:
    """See `unclip.stages.row.Row`."""
    return ToyPrior(experiment.model, experiment.model.embed_dim or sizes.embed_dim)


def needs(experiment: ToyPriorExperiment) -> Needs:
    """Both embeddings."""
    return Needs(image=True, text=True)


def dry_step(net: ToyPrior, experiment: ToyPriorExperiment, given: Given, share: Share) -> Tensor:
    """One prediction."""
    return net(given.text.z_t)
