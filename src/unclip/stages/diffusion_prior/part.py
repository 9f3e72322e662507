"""The trained diffusion prior, from its artifact."""

from __future__ import annotations

from dataclasses import dataclass, field
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
from unclip.embeddings.tokens import Tokenizer
from unclip.stages._prior.null_text import null_text
from unclip.stages._prior.part import PriorPart
from unclip.stages.diffusion_prior.config import DiffusionPriorExperiment, PriorSamplerConfig
from unclip.stages.diffusion_prior.network import DiffusionPrior, build_network
from unclip.stages.diffusion_prior.sampling import sample_prior
from unclip.stages.diffusion_prior.x0_errors import find_x0_errors, read_x0_errors
from unclip.stages.experiment import require_steps_fit
from unclip.stages.interface import LoadedParents


@dataclass(frozen=True)
class DiffusionPriorPart(PriorPart):
    """A trained diffusion prior."""

    net: DiffusionPrior
    sampler: PriorSamplerConfig
    diffusion: DiffusionConfig
    x0_errors: dict[str, list[float]] = field(default_factory=dict)  # M by sampler.steps

    def check_sampler(self, sampler: PriorSamplerConfig) -> None:
        """See `Part.check_sampler`."""
        require_steps_fit(sampler, self.diffusion)
        require_guided_rows(sampler, self.diffusion)
        find_x0_errors(self.x0_errors, sampler, self.diffusion)

    def sample(
        self,
        z_t: Tensor,
        caption: Caption,
        noise: SampleNoise,
        *,
        sampler: PriorSamplerConfig,
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
            null=self.null,
            x0_errors=self.x0_errors_of(sampler),
            progress=progress,
            read_once=True,
        )

    def x0_errors_of(self, sampler: PriorSamplerConfig) -> Tensor | None:
        """M ``[N]`` of the sampled steps, float64, for the samplers that need it.

        Raises:
            UserError: none is fitted for these steps.
        """
        found = find_x0_errors(self.x0_errors, sampler, self.diffusion)
        return None if found is None else torch.tensor(found, dtype=torch.float64)

    @torch.no_grad()
    def forward_once(self, clip: Clip) -> None:
        """See `PriorPart.forward_once`."""
        text, caption = self.read(clip, ["a"])
        t = torch.zeros(1, dtype=torch.long, device=self.device)
        self.net(torch.zeros_like(text.z_t), t, z_t=text.z_t, caption=caption)


def load(path: Path | str, clip: FrozenClip, *, key: str = "prior") -> DiffusionPriorPart:
    """From an artifact; one that was trained with another CLIP is refused."""
    artifact = artifacts.expect(artifacts.describe(path, key=key), ("diffusion_prior",), key=key)
    check_embedding(artifact, clip, key=key)
    experiment = artifact.experiment(DiffusionPriorExperiment, "model", "sampler", "diffusion")
    sizes = LoadedParents(clip).sizes()
    net = artifact.network(lambda: build_network(experiment, sizes))
    tokenize = Tokenizer(experiment.model.context)
    return DiffusionPriorPart(
        net,
        experiment.sampler,
        tokenize,
        experiment.diffusion,
        read_x0_errors(artifact),
        null=null_text(net, clip.model, tokenize),
    )
