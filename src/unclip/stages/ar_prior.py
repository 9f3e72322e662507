"""The autoregressive prior: z_i from a caption, code by code (paper, section 2.2)."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from unclip.embeddings.codec import Codec
from unclip.models.ar_prior import ArPrior
from unclip.models.ar_sampling import sample_ar_prior
from unclip.models.clip import FrozenClip
from unclip.seeding import SampleNoise
from unclip.stages.configs import ArPriorExperiment
from unclip.stages.prior import Pair, encode, judge
from unclip.training.random import StepRandom
from unclip.training.stage import Look, Quality, Stage
from unclip.types import PriorBatch


class ArPriorStage(Stage):
    """Trains an `ArPrior` on the codes of a frozen CLIP's image embeddings."""

    quality: ClassVar[Quality] = Quality("val/cosine", "higher")

    def __init__(self, experiment: ArPriorExperiment, clip: FrozenClip, codec: Codec):
        net = ArPrior(experiment.model, codec, clip.model.text_width)
        super().__init__(experiment, net, clip)

    def encode(self, batch: PriorBatch) -> Pair:
        """The batch as the frozen CLIP sees it."""
        return encode(
            self.frozen_clip.model, batch, features=self.experiment.model.caption == "clip"
        )

    def loss(
        self, net: ArPrior, pair: Pair, draws: StepRandom, *, training: bool
    ) -> dict[str, Tensor]:
        """Cross-entropy per code in nats: of all, and of each quarter of the positions."""
        with torch.no_grad():
            codec = self.sampling_net.codec
            codes = codec.encode(pair.z_i)
            dot = codec.encode_dot((pair.z_i * pair.z_t).sum(dim=1))
        logits = net(
            codes,
            dot=dot,
            z_t=pair.z_t,
            caption=pair.caption,
            keep=draws.keep("drop_text", len(codes), self.experiment.drop_text if training else 0),
        )
        each = F.cross_entropy(logits.float().transpose(1, 2), codes, reduction="none").mean(dim=0)
        parts = each.detach().tensor_split(4)
        values = {f"loss_q{q}": part.mean() for q, part in enumerate(parts) if len(part)}
        return {"loss": each.mean(), **values}

    def training_step(self, batch: PriorBatch, batch_idx: int) -> Tensor:
        """Caption and z_t are dropped together; the dot product never is."""
        pair = self.encode(batch)
        net: ArPrior = self.net  # type: ignore[assignment]
        values = self.loss(net, pair, self.draws(batch_idx), training=True)
        self.log_loss("train", values, len(pair.z_i))
        return values["loss"]

    def validation_step(self, batch: PriorBatch, batch_idx: int) -> None:
        """The same loss with the averaged weights, nothing dropped."""
        pair = self.encode(batch)
        draws = self.validation_draws(batch_idx)
        values = self.loss(self.sampling_net, pair, draws, training=False)
        self.log_loss("val", values, len(pair.z_i))

    def look(self, batch: PriorBatch) -> Look:
        """Sampled embeddings against the true ones."""
        pair = self.encode(batch)
        found = sample_ar_prior(
            self.sampling_net,
            z_t=pair.z_t,
            caption=pair.caption,
            sampler=self.experiment.sampler,
            noise=SampleNoise(range(len(pair.z_t))),
        )
        return judge(found, pair, batch)
