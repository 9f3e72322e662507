"""The trained linear map, from its artifact."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from unclip.common import artifacts
from unclip.common.seeding import SampleNoise
from unclip.common.types import Caption, Progress
from unclip.embeddings.agreement import check_embedding
from unclip.embeddings.clip import Clip, FrozenClip
from unclip.stages._prior.part import PriorPart
from unclip.stages.interface import LoadedParents
from unclip.stages.toy_prior.config import ToyPriorExperiment, ToySamplerConfig
from unclip.stages.toy_prior.network import build_network
from unclip.stages.toy_prior.sampling import sample_toy


@dataclass(frozen=True)
class ToyPriorPart(PriorPart):
    """A trained linear map."""

    def steps(self, sampler: ToySamplerConfig) -> int:
        """One."""
        return 1

    def sample(
        self,
        z_t: Tensor,
        caption: Caption,
        noise: SampleNoise,
        *,
        sampler: ToySamplerConfig,
        progress: Progress | None = None,
    ) -> Tensor:
        """See `PriorPart.sample`."""
        found = sample_toy(self.net, z_t, sampler, noise)
        if progress is not None:
            progress(1, 1)
        return found

    @torch.no_grad()
    def forward_once(self, clip: Clip) -> None:
        """See `PriorPart.forward_once`."""
        text, _ = self.read(clip, ["a"])
        self.net(text.z_t)


def load(path: Path | str, clip: FrozenClip, *, key: str = "prior") -> ToyPriorPart:
    """From an artifact."""
    artifact = artifacts.expect(artifacts.describe(path, key=key), ("toy_prior",), key=key)
    check_embedding(artifact, clip, key=key)
    experiment = artifact.experiment(ToyPriorExperiment, "model", "sampler")
    net = artifact.network(lambda: build_network(experiment, LoadedParents(clip).sizes()))
    return ToyPriorPart(net, experiment.sampler, clip.model.tokenize)
