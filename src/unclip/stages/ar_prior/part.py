"""The trained autoregressive prior, from its artifact."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from unclip.common import artifacts
from unclip.common.errors import UserError
from unclip.common.seeding import SampleNoise
from unclip.common.types import Caption, Progress
from unclip.embeddings.agreement import check_embedding
from unclip.embeddings.clip import Clip, FrozenClip
from unclip.embeddings.tokens import Tokenizer
from unclip.stages._prior.null_text import null_text
from unclip.stages._prior.part import PriorPart
from unclip.stages.ar_prior.config import ArPriorExperiment, ArSamplerConfig
from unclip.stages.ar_prior.network import ArPrior, build_network
from unclip.stages.ar_prior.sampling import sample_ar_prior
from unclip.stages.interface import LoadedParents

NAME = "ar_prior"  # of the stage, and of its folder in a cascade that has another prior too


@dataclass(frozen=True)
class ArPriorPart(PriorPart):
    """A trained autoregressive prior."""

    net: ArPrior
    sampler: ArSamplerConfig

    def steps(self, sampler: ArSamplerConfig) -> int:
        """One for each code."""
        return self.net.codes

    def sample(
        self,
        z_t: Tensor,
        caption: Caption,
        noise: SampleNoise,
        *,
        sampler: ArSamplerConfig,
        progress: Progress | None = None,
    ) -> Tensor:
        """See `PriorPart.sample`."""
        return sample_ar_prior(
            self.net,
            z_t=z_t,
            caption=caption,
            sampler=sampler,
            noise=noise,
            null=self.null,
            progress=progress,
        )

    @torch.no_grad()
    def forward_once(self, clip: Clip) -> None:
        """See `PriorPart.forward_once`."""
        text, caption = self.read(clip, ["a"])
        zero = torch.zeros(1, dtype=torch.long, device=self.device)
        self.net(zero.expand(1, self.net.codes), dot=zero, z_t=text.z_t, caption=caption)


def load(path: Path | str, clip: FrozenClip, *, key: str = "prior") -> ArPriorPart:
    """From an artifact; one that was trained with another CLIP is refused."""
    artifact = artifacts.expect(artifacts.describe(path, key=key), (NAME,), key=key)
    check_embedding(artifact, clip, key=key)
    experiment = artifact.experiment(ArPriorExperiment, "model", "sampler")
    model = experiment.model
    if model.codes is None or model.buckets is None:
        raise UserError(
            f"{artifact.path / 'config.yaml'}: model.codes and model.buckets are not set; copy the "
            "artifact again"
        )
    sizes = LoadedParents(clip).sizes()
    net = artifact.network(lambda: build_network(experiment, sizes))
    tokenize = Tokenizer(model.text.context)
    null = null_text(net, clip.model, tokenize)
    return ArPriorPart(net, experiment.sampler, tokenize, null=null)
