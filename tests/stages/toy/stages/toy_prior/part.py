"""The trained linear map, from its artifact."""

from __future__ import annotations

from dataclasses import dataclass

from unclip.stages.toy_prior.config import ToyPriorExperiment
from unclip.stages.toy_prior.network import build_network
from unclip.stages.toy_prior.sampling import sample_toy

from unclip.common import artifacts
from unclip.embeddings.clip import FrozenClip, check_embedding
from unclip.stages._prior.part import PriorPart
from unclip.stages.interface import LoadedParents


@dataclass(frozen=True)
class ToyPriorPart(PriorPart):
    """A trained linear map."""

    def steps(self, sampler):
        """One."""
        return 1

    def sample(self, z_t, caption, noise, *, sampler, progress=None):
        """See `PriorPart.sample`."""
        found = sample_toy(self.net, z_t, sampler, noise)
        if progress is not None:
            progress(1, 1)
        return found

    def forward_once(self, clip):
        """See `PriorPart.forward_once`."""
        text, _ = self.read(clip, ["a"])
        self.net(text.z_t)


def load(path, clip: FrozenClip, *, key: str = "prior") -> ToyPriorPart:
    """From an artifact."""
    artifact = artifacts.expect(artifacts.describe(path, key=key), ("toy_prior",), key=key)
    check_embedding(artifact, clip, key=key)
    experiment = artifact.experiment(ToyPriorExperiment, "model", "sampler")
    net = build_network(experiment, LoadedParents(clip).sizes())
    artifact.load_into(net)
    return ToyPriorPart(net, experiment.sampler, clip.model.tokenize)
