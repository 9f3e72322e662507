"""The decoder: a picture from z_i and caption, by a diffusion U-Net with learned variance.

Its ablations (paper, section 5) are settings: ``model.use_z_i: false`` is GLIDE,
``model.use_caption: false`` leaves z_i alone, ``embedding: text`` puts z_t in the place of z_i.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from unclip.common.images import Picture, to_uint8
from unclip.common.seeding import SampleNoise
from unclip.data.batches import DecoderBatch
from unclip.embeddings.clip import FrozenClip
from unclip.embeddings.tokens import token_mask
from unclip.stages._diffusion.stage import DiffusionStage
from unclip.stages.decoder.config import DecoderExperiment
from unclip.stages.decoder.network import Decoder
from unclip.stages.decoder.sampling import sample_decoder
from unclip.training.one_pass import z_i_of
from unclip.training.random import StepRandom
from unclip.training.stage import Look, Quality, Score, own_nearest

LOOK = 16  # validation samples that are decoded


class DecoderStage(DiffusionStage):
    """Trains a `Decoder` on images and the embeddings a frozen CLIP gives them."""

    quality: ClassVar[Quality] = Quality("val/clip_cosine", "higher")

    def __init__(self, experiment: DecoderExperiment, clip: FrozenClip):
        super().__init__(experiment, Decoder(experiment.model, clip.model.embed_dim), clip)

    @torch.no_grad()
    def encode(self, batch: DecoderBatch) -> Tensor | None:
        """What the decoder gets of the CLIP ``[B, D]``: z_i, or z_t in its place, or nothing."""
        if not self.experiment.model.use_z_i:
            return None
        if self.experiment.embedding == "text":
            return self.frozen_clip.model.encode_text(batch.clip_tokens).z_t
        return z_i_of(self.frozen_clip.model, batch)

    def loss(
        self, net: Decoder, batch: DecoderBatch, draws: StepRandom, *, training: bool
    ) -> dict[str, Tensor]:
        """Hybrid loss (MSE of eps, bound of the variance); the two conditions drop on their own."""
        at = self.noised(batch.image, draws, training=training)
        drop_z_i, drop_caption = self.experiment.drop_z_i, self.experiment.drop_caption
        output = net(
            at.x_t,
            at.t,
            z_i=self.blurred(self.encode(batch), draws) if training else self.encode(batch),
            tokens=batch.tokens,
            mask=token_mask(batch.tokens),
            keep_z_i=draws.keep("drop_z_i", len(at.t), drop_z_i if training else 0.0),
            keep_text=draws.keep("drop_caption", len(at.t), drop_caption if training else 0.0),
        )
        return self.losses(output, at)

    def blurred(self, z_i: Tensor | None, draws: StepRandom) -> Tensor | None:
        """z_i ``[B, D]`` turned a little at random, so that a prior's errors are forgiven."""
        noise = self.experiment.noise_z_i
        if z_i is None or not noise:
            return z_i
        drawn = draws.normal("noise_z_i", z_i.shape) / math.sqrt(z_i.shape[1])
        return F.normalize(z_i + noise * drawn, dim=1)

    def training_step(self, batch: DecoderBatch, batch_idx: int) -> Tensor:
        """One micro-batch."""
        net: Decoder = self.net  # type: ignore[assignment]
        values = self.loss(net, batch, self.draws(batch_idx), training=True)
        self.log_loss("train", values, len(batch.image))
        return values["loss"]

    def validation_step(self, batch: DecoderBatch, batch_idx: int) -> None:
        """The same loss with the averaged weights, nothing dropped, the same noise every time."""
        draws = self.validation_draws(batch_idx)
        values = self.loss(self.sampling_net, batch, draws, training=False)
        self.log_loss("val", values, len(batch.image))

    def look(self, batch: DecoderBatch) -> Look:
        """Pictures decoded from what real ones were given as; how close CLIP finds the two."""
        parts = (None if part is None else part[:LOOK] for part in batch)
        few = DecoderBatch(*parts)  # type: ignore[arg-type]  # mixed
        images = self.decoded(few)
        clip = self.frozen_clip.model
        cosine = F.cosine_similarity(clip.encode_image(images), z_i_of(clip, few))
        pictures = []
        for k, caption in enumerate(few.captions):
            pictures.append(Picture(to_uint8(few.image[k]), "real: " + caption))
            pictures.append(Picture(to_uint8(images[k]), f"decoded ({cosine[k]:.2f})", k))
        return Look(pictures, {"clip_cosine": cosine.mean().item()})

    def decoded(self, batch: DecoderBatch) -> Tensor:
        """A picture for each sample's conditions, as the experiment's sampler says."""
        return sample_decoder(
            self.sampling_net,
            z_i=self.encode(batch),
            tokens=batch.tokens,
            diffusion=self.experiment.diffusion,
            sampler=self.experiment.sampler,
            noise=SampleNoise(range(len(batch.image))),
        )

    def overfit_scores(self, batch: DecoderBatch) -> list[Score]:
        """Each picture comes out again."""
        images = self.decoded(batch)
        psnr = 10 * torch.log10(4 / (images - batch.image).square().mean())
        return [Score("PSNR in dB", psnr.item(), 15.0), own_nearest(images, batch.image)]
