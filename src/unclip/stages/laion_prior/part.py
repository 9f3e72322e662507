"""LAION's diffusion prior, trained or imported, from its artifact."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from unclip.common import artifacts
from unclip.common.seeding import SampleNoise
from unclip.common.types import Caption, Progress
from unclip.diffusion.config import DiffusionConfig
from unclip.diffusion.predictor import require_guided_rows
from unclip.embeddings.agreement import check_embedding
from unclip.embeddings.clip import Clip, FrozenClip
from unclip.stages._prior.config import CandidatesConfig
from unclip.stages._prior.diffusion_sampling import sample_prior
from unclip.stages._prior.part import PriorPart
from unclip.stages.experiment import require_steps_fit
from unclip.stages.interface import LoadedParents
from unclip.stages.laion_prior.config import LaionPriorExperiment
from unclip.stages.laion_prior.network import LaionPrior, build_network


@dataclass(frozen=True)
class LaionPriorPart(PriorPart):
    """A trained LAION prior."""

    net: LaionPrior
    sampler: CandidatesConfig
    diffusion: DiffusionConfig

    def check_sampler(self, sampler: CandidatesConfig) -> None:
        """See `Part.check_sampler`."""
        require_steps_fit(sampler, self.diffusion)
        require_guided_rows(sampler, self.diffusion)

    def sample(
        self,
        z_t: Tensor,
        caption: Caption,
        noise: SampleNoise,
        *,
        sampler: CandidatesConfig,
        progress: Progress | None = None,
    ) -> Tensor:
        """See `PriorPart.sample`."""
        return sample_prior(
            self.net,
            z_t=z_t,
            caption=caption,
            diffusion=self.diffusion,
            sampler=sampler,
            noise=noise,
            progress=progress,
        )

    @torch.no_grad()
    def forward_once(self, clip: Clip) -> None:
        """See `PriorPart.forward_once`."""
        text, caption = self.read(clip, ["a"])
        t = torch.zeros(1, dtype=torch.long, device=self.device)
        self.net(torch.zeros_like(text.z_t), t, z_t=text.z_t, caption=caption)


def load(path: Path | str, clip: FrozenClip, *, key: str = "prior") -> LaionPriorPart:
    """From an artifact; one that was trained with another CLIP is refused."""
    artifact = artifacts.expect(artifacts.describe(path, key=key), ("laion_prior",), key=key)
    check_embedding(artifact, clip, key=key)
    experiment = artifact.experiment(LaionPriorExperiment, "model", "sampler", "diffusion")
    sizes = LoadedParents(clip).sizes()
    net = artifact.network(lambda: build_network(experiment, sizes))
    return LaionPriorPart(net, experiment.sampler, clip.model.tokenize, experiment.diffusion)
