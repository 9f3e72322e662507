"""The decoder: an image from z_i and caption, by a diffusion U-Net with learned variance.

Its ablations (paper, section 5) are settings: ``model.use_z_i: false`` is GLIDE,
``model.use_caption: false`` leaves z_i alone, ``embedding: text`` puts z_t in place of z_i.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from data_modules.base import open_embeddings
from data_modules.decoder import DecoderData
from unclip.common.images import CaptionedImage, to_uint8
from unclip.common.seeding import SampleNoise
from unclip.data.batches import DecoderBatch
from unclip.embeddings.clip import Clip, FrozenClip
from unclip.embeddings.gpt2 import Gpt2Tokenizer, mask_of, ready, tokenizer_of
from unclip.embeddings.lengths import directions, with_lengths
from unclip.embeddings.tokens import Tokenizer
from unclip.stages._diffusion.stage import DiffusionStage
from unclip.stages.decoder.config import DecoderExperiment
from unclip.stages.decoder.network import Decoder, build_network
from unclip.stages.decoder.sampling import DecoderPart
from unclip.stages.decoder.words import Words, null_words, told
from unclip.stages.interface import LoadedParents
from unclip.training import strategies
from unclip.training.encodings import Reads
from unclip.training.one_pass import text_of, z_i_of, z_t_of
from unclip.training.random import StepRandom
from unclip.training.stage import Monitor, Preview, Score, own_nearest

PREVIEW = 16  # validation samples that are decoded


class DecoderStage(DiffusionStage):
    """Trains a `Decoder` on images and the embeddings a frozen CLIP gives them."""

    monitor: ClassVar[Monitor] = Monitor("val/clip_cosine", "higher")

    def __init__(self, experiment: DecoderExperiment, clip: FrozenClip):
        with strategies.building(experiment.trainer):
            net = build_network(experiment, LoadedParents(clip).sizes())
        super().__init__(experiment, net, clip)

    @property
    def uses_embeddings(self) -> bool:
        """GLIDE's network uses none."""
        model = self.experiment.model
        return model.use_z_i or model.caption == "clip"

    @property
    def reads(self) -> Reads:
        """See `Stage.reads`."""
        model, features = self.experiment.model, self.experiment.model.caption == "clip"
        text = model.use_z_i and self.experiment.embedding == "text"
        return Reads(image=model.use_z_i and not text, text=text or features, features=features)

    def encode(self, batch: DecoderBatch) -> Tensor | None:
        """What the decoder gets of the CLIP ``[B, D]``: z_i, or z_t in its place, or nothing."""
        if not self.experiment.model.use_z_i:
            return None
        if self.experiment.embedding == "text":
            return z_t_of(self.frozen_clip.model, batch)
        return z_i_of(self.frozen_clip.model, batch)

    def loss(
        self, net: Decoder, batch: DecoderBatch, rng: StepRandom, *, training: bool
    ) -> dict[str, Tensor]:
        """Hybrid loss (MSE of eps, bound of the variance); the two conditions drop on their own."""
        at = self.add_noise(batch.image, rng, training=training)
        drop_z_i, drop_caption = self.experiment.drop_z_i, self.experiment.drop_caption
        given = dict(
            z_i=self.jitter(self.encode(batch), rng) if training else self.encode(batch),
            keep_z_i=rng.keep("drop_z_i", len(at.t), drop_z_i if training else 0.0),
            known=self.known(at.x0, rng),
            **told(
                self.read(batch),
                rng.keep("drop_caption", len(at.t), drop_caption if training else 0.0),
                self.null,
            ),
        )
        output, taught = self.asked(net, batch.keys, x_t=at.x_t, t=at.t, **given)
        return self.losses(output, at, taught)

    def read(self, batch: DecoderBatch) -> Words:
        """The captions as the network reads them."""
        text = None if self._clip_model is None else text_of(self._clip_model, batch)
        return Words(batch.tokens, mask_of(self.experiment.model, batch.tokens), text)

    @cached_property
    def null(self) -> Words | None:
        """What the network is told where a caption is dropped; see `told`."""
        model = self.experiment.model
        return null_words(model, self.tokenize, self._clip_model, self.device)

    @property
    def tokenize(self) -> Tokenizer | Gpt2Tokenizer:
        """Of the network's own caption encoder."""
        return tokenizer_of(self.experiment.model)

    @property
    def _clip_model(self) -> Clip | None:
        """The CLIP that reads captions for the network, if it does."""
        return self.frozen_clip.model if self.experiment.model.caption == "clip" else None

    def jitter(self, z_i: Tensor | None, rng: StepRandom) -> Tensor | None:
        """z_i ``[B, D]`` turned a little at random, so that a prior's errors are forgiven."""
        noise = self.experiment.noise_z_i
        if z_i is None or not noise:
            return z_i
        drawn = rng.normal("noise_z_i", z_i.shape) / math.sqrt(z_i.shape[1])
        kind = self.experiment.model.embeddings
        turned = F.normalize(directions(z_i, kind) + noise * drawn, dim=1)
        return with_lengths(turned, z_i, kind)

    def training_step(self, batch: DecoderBatch, batch_idx: int) -> Tensor:
        """One micro-batch."""
        net: Decoder = self.net  # type: ignore[assignment]
        values = self.loss(net, batch, self.rng(batch_idx), training=True)
        self.log_loss("train", values, len(batch.image))
        return values["loss"]

    def validation_step(self, batch: DecoderBatch, batch_idx: int) -> None:
        """The same loss with the averaged weights, nothing dropped, the same noise every time."""
        rng = self.validation_rng(batch_idx)
        values = self.loss(self.sampling_net, batch, rng, training=False)
        self.log_loss("val", values, len(batch.image))

    def preview(self, batch: DecoderBatch) -> Preview:
        """Images decoded from what real ones were given as; how close CLIP finds the two."""
        whole = batch._replace(encoded=None)
        parts = (None if part is None else part[:PREVIEW] for part in whole)
        few = DecoderBatch(*parts)  # type: ignore[arg-type]  # mixed
        images = self.decode(few)
        clip = self.frozen_clip.model
        cosine = F.cosine_similarity(clip.encode_image(images), z_i_of(clip, few))
        shown = []
        for k, caption in enumerate(few.captions):
            shown.append(CaptionedImage(to_uint8(few.image[k]), "real: " + caption))
            shown.append(CaptionedImage(to_uint8(images[k]), f"decoded ({cosine[k]:.2f})", k))
        return Preview(shown, {"clip_cosine": cosine.mean().item()})

    def sampled(self, batch: DecoderBatch, first: int) -> Tensor:
        """See `Stage.sampled`."""
        return self.decode(batch, first)

    def decode(self, batch: DecoderBatch, first: int = 0) -> Tensor:
        """An image for each sample's conditions, as the experiment's sampler says."""
        part = DecoderPart(
            self.sampling_net,
            self.experiment.sampler,
            self.experiment.diffusion,
            self.tokenize,
            clip=self._clip_model,
        )
        noise = SampleNoise(range(first, first + len(batch.image)))
        return part.draw(self.encode(batch), batch.captions, noise)

    def overfit_scores(self, batch: DecoderBatch) -> list[Score]:
        """Each image comes out again."""
        images = self.decode(batch)
        psnr = 10 * torch.log10(4 / (images - batch.image).square().mean())
        return [Score("PSNR in dB", psnr.item(), 15.0), own_nearest(images, batch.image)]


def build_stage(experiment: DecoderExperiment, parents: LoadedParents) -> DecoderStage:
    """See `unclip.stages.row.Row`."""
    assert parents.clip is not None
    return DecoderStage(experiment, parents.clip)


def data_module(experiment: DecoderExperiment, clip: FrozenClip) -> DecoderData:
    """See `unclip.stages.row.Row`."""
    return DecoderData(
        experiment.data,
        image_size=experiment.model.image_size,
        clip_image_size=clip.model.image_size,
        clip_tokenize=clip.model.tokenize,
        tokenize=ready(tokenizer_of(experiment.model)),
        embeddings=open_embeddings(experiment.data.embeddings, clip),
        seed=experiment.trainer.seed,
        accumulate=experiment.trainer.accumulate,
    )
