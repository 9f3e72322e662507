"""The decoder: a picture from z_i and caption, by a diffusion U-Net with learned variance."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from unclip.figures import to_uint8
from unclip.models.clip import FrozenClip, token_mask
from unclip.models.decoder import Decoder
from unclip.models.sampling import sample_decoder
from unclip.seeding import SampleNoise
from unclip.stages.configs import DecoderExperiment
from unclip.stages.diffusion import DiffusionStage
from unclip.training.random import StepRandom
from unclip.training.stage import Look, Picture, Quality
from unclip.types import DecoderBatch

LOOK = 16  # validation samples that are decoded


class DecoderStage(DiffusionStage):
    """Trains a `Decoder` on images and the embeddings a frozen CLIP gives them."""

    quality: ClassVar[Quality] = Quality("val/clip_cosine", "higher")

    def __init__(self, experiment: DecoderExperiment, clip: FrozenClip):
        super().__init__(experiment, Decoder(experiment.model, clip.model.embed_dim), clip)

    @torch.no_grad()
    def encode(self, batch: DecoderBatch) -> Tensor:
        """z_i of the batch."""
        return self.frozen_clip.model.encode_image(batch.clip_image)

    def loss(
        self, net: Decoder, batch: DecoderBatch, draws: StepRandom, *, training: bool
    ) -> dict[str, Tensor]:
        """Hybrid loss (MSE of eps, bound of the variance); the two conditions drop on their own."""
        at = self.noised(batch.image, draws, training=training)
        drop_z_i, drop_caption = self.experiment.drop_z_i, self.experiment.drop_caption
        output = net(
            at.x_t,
            at.t,
            z_i=self.encode(batch),
            tokens=batch.tokens,
            mask=token_mask(batch.tokens),
            keep_z_i=draws.keep("drop_z_i", len(at.t), drop_z_i if training else 0.0),
            keep_text=draws.keep("drop_caption", len(at.t), drop_caption if training else 0.0),
        )
        return self.losses(output, at)

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
        """Decoded embeddings of real images; how close CLIP finds the two."""
        few = DecoderBatch(*(part[:LOOK] for part in batch))  # type: ignore[arg-type]  # mixed
        z_i = self.encode(few)
        images = sample_decoder(
            self.sampling_net,
            z_i=z_i,
            tokens=few.tokens,
            diffusion=self.experiment.diffusion,
            sampler=self.experiment.sampler,
            noise=SampleNoise(range(len(z_i))),
        )
        cosine = F.cosine_similarity(self.frozen_clip.model.encode_image(images), z_i)
        pictures = []
        for k, caption in enumerate(few.captions):
            pictures.append(Picture(to_uint8(few.image[k]), "real: " + caption))
            pictures.append(Picture(to_uint8(images[k]), f"decoded ({cosine[k]:.2f})"))
        return Look(pictures, {"clip_cosine": cosine.mean().item()})
