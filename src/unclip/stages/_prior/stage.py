"""What both priors' stages share: the frozen CLIP's view of a batch, the steps, the judgement."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from unclip.common.images import CaptionedImage, to_uint8
from unclip.common.seeding import SampleNoise
from unclip.common.types import Caption
from unclip.data.batches import PriorBatch
from unclip.embeddings.clip import Clip
from unclip.embeddings.config import Embeddings
from unclip.embeddings.lengths import directions, dots, stored
from unclip.embeddings.metrics import prior_metrics
from unclip.embeddings.tokens import Tokenizer, token_mask
from unclip.stages._prior.null_text import NullText, null_text
from unclip.training.encodings import Reads
from unclip.training.one_pass import text_of, z_i_of, z_t_of
from unclip.training.random import StepRandom
from unclip.training.stage import Monitor, Preview, Score, Stage, own_nearest


class Pair(NamedTuple):
    """What the frozen CLIP says of a batch."""

    z_i: Tensor  # [B, D]
    z_t: Tensor  # [B, D]
    caption: Caption
    keys: Sequence[str] = ()


def encode(clip: Clip, batch: PriorBatch, *, features: bool) -> Pair:
    """The batch as ``clip`` sees it; the caption as CLIP's token features or as own tokens.

    The gradient of a frozen CLIP ends in a word that it learns, if there is one.
    """
    z_i = z_i_of(clip, batch)
    if not features:
        assert batch.tokens is not None
        caption = Caption(batch.tokens, None, token_mask(batch.tokens))
        return Pair(z_i, z_t_of(clip, batch), caption, batch.keys)
    text = text_of(clip, batch)
    z_t = text.z_t if batch.z_t is None else stored(batch.z_t, clip.embeddings)
    return Pair(z_i, z_t, Caption(None, text.tokens, text.mask), batch.keys)


def judge(found: Tensor, pair: Pair, batch: PriorBatch, kind: Embeddings | None = None) -> Preview:
    """Metrics of sampled embeddings ``[B, D]``, and the image nearest to each of the first 16.

    A batch without images has metrics alone.
    """
    metrics = prior_metrics(found, pair.z_i, pair.z_t)._asdict() if len(found) > 1 else {}
    if batch.clip_image is None:
        return Preview([], metrics)
    with torch.autocast(found.device.type, enabled=False):
        similar = directions(found, kind) @ directions(pair.z_i, kind).T
    cosine = dots(found, pair.z_i, kind)
    images = [
        CaptionedImage(to_uint8(batch.clip_image[best]), f"{caption} ({cosine[k]:.2f})", k)
        for k, (best, caption) in enumerate(zip(similar.argmax(dim=1).tolist(), batch.captions))
    ]
    return Preview(images[:16], metrics)


class PriorStage(Stage):
    """A `Stage` whose network draws z_i; a subclass gives `loss` and `draw`."""

    monitor: ClassVar[Monitor] = Monitor("val/cosine", "higher")

    @property
    def tokenize(self) -> Tokenizer:
        """Of the network's own caption encoder."""
        raise NotImplementedError

    def loss(self, net: Any, pair: Pair, rng: StepRandom, *, training: bool) -> dict[str, Tensor]:
        """``loss`` and what is logged beside it; text is dropped in training alone."""
        raise NotImplementedError

    def draw(self, pair: Pair, noise: SampleNoise) -> Tensor:
        """z_i ``[B, D]`` for the captions of ``pair``, with the averaged weights."""
        raise NotImplementedError

    def redraw(self, pair: Pair, noise: SampleNoise) -> Tensor:
        """`draw`, given all that training gives beside z_i itself."""
        return self.draw(pair, noise)

    @property
    def reads(self) -> Reads:
        """See `Stage.reads`."""
        return Reads(image=True, text=True, features=self.experiment.model.caption == "clip")

    @cached_property
    def null(self) -> NullText | None:
        """What the network is told where a text is dropped."""
        return null_text(self.sampling_net, self.frozen_clip.model, self.tokenize)

    def encode(self, batch: PriorBatch) -> Pair:
        """The batch as the frozen CLIP sees it."""
        features = self.experiment.model.caption == "clip"
        return encode(self.frozen_clip.model, batch, features=features)

    def training_step(self, batch: PriorBatch, batch_idx: int) -> Tensor:
        """One micro-batch."""
        pair = self.encode(batch)
        values = self.loss(self.net, pair, self.rng(batch_idx), training=True)
        self.log_loss("train", values, len(pair.z_i))
        return values["loss"]

    def validation_step(self, batch: PriorBatch, batch_idx: int) -> None:
        """The same loss with the averaged weights, nothing dropped, the same draws every time."""
        pair = self.encode(batch)
        rng = self.validation_rng(batch_idx)
        values = self.loss(self.sampling_net, pair, rng, training=False)
        self.log_loss("val", values, len(pair.z_i))

    def preview(self, batch: PriorBatch) -> Preview:
        """Sampled embeddings against the true ones."""
        pair = self.encode(batch)
        found = self.draw(pair, SampleNoise(range(len(pair.z_t))))
        return judge(found, pair, batch, self.frozen_clip.model.embeddings)

    def overfit_scores(self, batch: PriorBatch) -> list[Score]:
        """Each caption's z_i is the true one."""
        pair = self.encode(batch)
        found = self.redraw(pair, SampleNoise(range(len(pair.z_t))))
        cosine = dots(found, pair.z_i, self.frozen_clip.model.embeddings).mean().item()
        return [Score("cosine", cosine, 0.9), own_nearest(found, pair.z_i)]
