"""The autoregressive prior: z_i from a caption, code by code (paper, section 2.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from data_modules.prior import PriorData
from unclip.common.seeding import SampleNoise
from unclip.embeddings.clip import FrozenClip
from unclip.embeddings.codec import Codec
from unclip.embeddings.lengths import dots
from unclip.embeddings.tokens import Tokenizer
from unclip.stages._prior.null_text import told
from unclip.stages._prior.stage import Pair, PriorStage
from unclip.stages.ar_prior.config import ArPriorExperiment
from unclip.stages.ar_prior.network import ArPrior, build_network
from unclip.stages.ar_prior.sampling import sample_ar_prior, sample_codes
from unclip.stages.interface import LoadedParents
from unclip.training import strategies
from unclip.training.random import StepRandom


class ArPriorStage(PriorStage):
    """Trains an `ArPrior` on the codes of a frozen CLIP's image embeddings."""

    def __init__(self, experiment: ArPriorExperiment, clip: FrozenClip, codec: Codec):
        with strategies.building(experiment.trainer):
            net = build_network(experiment, LoadedParents(clip, codec).sizes())
        net.load_codec(codec)
        super().__init__(experiment, net, clip)

    @property
    def tokenize(self) -> Tokenizer:
        """See `PriorStage.tokenize`."""
        return Tokenizer(self.experiment.model.text.context)

    def loss(
        self, net: ArPrior, pair: Pair, rng: StepRandom, *, training: bool
    ) -> dict[str, Tensor]:
        """Cross-entropy per code in nats: of all, and of each quarter of the positions.

        Caption and z_t are dropped together; the dot product never is.
        """
        with torch.no_grad():
            codes = self.sampling_net.codec.encode(pair.z_i)
            dot = self._dot(pair)
        keep = rng.keep("drop_text", len(codes), self.experiment.drop_text if training else 0)
        logits = net(codes, dot=dot, **told(pair.z_t, pair.caption, keep, self.null))
        each = F.cross_entropy(logits.float().transpose(1, 2), codes, reduction="none").mean(dim=0)
        parts = each.detach().tensor_split(4)
        values = {f"loss_q{q}": part.mean() for q, part in enumerate(parts) if len(part)}
        return {"loss": each.mean(), **values}

    def _dot(self, pair: Pair) -> Tensor:
        """The quantized dot product of each true z_i with its z_t ``[B]``."""
        codec = self.sampling_net.codec
        return codec.encode_dot(dots(pair.z_i, pair.z_t, codec.embeddings))

    def redraw(self, pair: Pair, noise: SampleNoise) -> Tensor:
        """Uses the true dot products: a memorised sample may be recognised by that alone."""
        net = self.sampling_net
        codes = sample_codes(
            net,
            dot=self._dot(pair),
            z_t=pair.z_t,
            caption=pair.caption,
            sampler=self.experiment.sampler,
            uniforms=noise.uniform((len(pair.z_t), net.codes), pair.z_t.device),
            null=self.null,
        )
        return net.codec.decode(codes)

    def draw(self, pair: Pair, noise: SampleNoise) -> Tensor:
        """As the experiment's sampler says."""
        return sample_ar_prior(
            self.sampling_net,
            z_t=pair.z_t,
            caption=pair.caption,
            sampler=self.experiment.sampler,
            noise=noise,
            null=self.null,
        )


def build_stage(experiment: ArPriorExperiment, parents: LoadedParents) -> ArPriorStage:
    """See `unclip.stages.row.Row`."""
    assert parents.clip is not None
    assert parents.codec is not None
    return ArPriorStage(experiment, parents.clip, parents.codec)


def data_module(experiment: ArPriorExperiment, clip: FrozenClip) -> PriorData:
    """See `unclip.stages.row.Row`."""
    return PriorData.of(experiment, clip, tokenize=Tokenizer(experiment.model.text.context))
