"""The diffusion prior: z_i from a caption, by predicting x0 = scale * z_i (paper, section 2.2)."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from unclip.figures import to_uint8
from unclip.models.clip import FrozenClip
from unclip.models.diffusion_prior import DiffusionPrior
from unclip.models.sampling import prior_caption, sample_prior
from unclip.seeding import SampleNoise
from unclip.stages.configs import DiffusionPriorExperiment
from unclip.stages.diffusion import DiffusionStage
from unclip.training.random import StepRandom
from unclip.training.stage import Look, Picture, Quality
from unclip.types import Caption, PriorBatch


class Pair(NamedTuple):
    """What the frozen CLIP says of a batch."""

    z_i: Tensor  # [B, D]
    z_t: Tensor  # [B, D]
    caption: Caption


class DiffusionPriorStage(DiffusionStage):
    """Trains a `DiffusionPrior` on the embeddings of a frozen CLIP."""

    quality: ClassVar[Quality] = Quality("val/cosine", "higher")

    def __init__(self, experiment: DiffusionPriorExperiment, clip: FrozenClip):
        net = DiffusionPrior(experiment.model, clip.model.embed_dim, clip.model.text_width)
        super().__init__(experiment, net, clip)

    @torch.no_grad()
    def encode(self, batch: PriorBatch) -> Pair:
        """The batch as the frozen CLIP sees it."""
        clip = self.frozen_clip.model
        z_t = clip.encode_text(batch.clip_tokens).z_t
        caption = prior_caption(self.sampling_net, clip, batch.clip_tokens, batch.tokens)
        return Pair(clip.encode_image(batch.clip_image), z_t, caption)

    def loss(
        self, net: DiffusionPrior, pair: Pair, draws: StepRandom, *, training: bool
    ) -> dict[str, Tensor]:
        """MSE between predicted and true x0 = scale * z_i, whole and by timestep quartile."""
        at = self.noised(pair.z_i * net.scale, draws, training=training)
        keep = draws.keep("drop_text", len(at.t), self.experiment.drop_text if training else 0.0)
        output = net(at.x_t, at.t, z_t=pair.z_t, caption=pair.caption, keep=keep)
        return self.losses(output, at)

    def training_step(self, batch: PriorBatch, batch_idx: int) -> Tensor:
        """Caption and z_t are dropped together; the noised embedding never is."""
        pair = self.encode(batch)
        net: DiffusionPrior = self.net  # type: ignore[assignment]
        values = self.loss(net, pair, self.draws(batch_idx), training=True)
        self.log_loss("train", values, len(pair.z_i))
        return values["loss"]

    def validation_step(self, batch: PriorBatch, batch_idx: int) -> None:
        """The same loss with the averaged weights, nothing dropped, the same noise every time."""
        pair = self.encode(batch)
        draws = self.validation_draws(batch_idx)
        values = self.loss(self.sampling_net, pair, draws, training=False)
        self.log_loss("val", values, len(pair.z_i))

    def look(self, batch: PriorBatch) -> Look:
        """Sampled embeddings against the true ones: cosine, and rank of the true image."""
        pair = self.encode(batch)
        found = sample_prior(
            self.sampling_net,
            z_t=pair.z_t,
            caption=pair.caption,
            diffusion=self.experiment.diffusion,
            sampler=self.experiment.sampler,
            noise=SampleNoise(range(len(pair.z_t))),
            candidates=self.experiment.sampler.candidates,
        )
        cosine = F.cosine_similarity(found, pair.z_i)
        similar = found @ pair.z_i.T
        rank = (similar > similar.diagonal()[:, None]).sum(dim=1).float()
        metrics = {
            "cosine": cosine.mean().item(),
            "cosine_z_t": F.cosine_similarity(found, pair.z_t).mean().item(),
            "true_cosine_z_t": F.cosine_similarity(pair.z_i, pair.z_t).mean().item(),
            "retrieval_rank": rank.mean().item(),
        }
        nearest = similar.argmax(dim=1).tolist()
        pictures = [
            Picture(to_uint8(batch.clip_image[best]), f"{caption} ({cosine[k]:.2f})")
            for k, (best, caption) in enumerate(zip(nearest, batch.captions))
        ]
        return Look(pictures[:16], metrics)
