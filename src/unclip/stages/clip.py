"""CLIP: contrastive training of the image and text encoders (arXiv 2103.00020)."""

from __future__ import annotations

import math
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from unclip.figures import to_uint8
from unclip.models.clip import Clip
from unclip.stages.configs import ClipExperiment
from unclip.training.stage import Look, Picture, Quality, Score, Stage
from unclip.types import ClipBatch


class Embedded(NamedTuple):
    """A batch in the shared space."""

    z_i: Tensor  # [B, D]
    z_t: Tensor  # [B, D]
    scale: Tensor  # scalar, the inverse temperature


def contrastive_loss(z_i: Tensor, z_t: Tensor, scale: Tensor) -> Tensor:
    """Symmetric cross-entropy of the similarities of ``z_i`` and ``z_t`` ``[B, D]``, both unit.

    Row k of one belongs to row k of the other; CLIP, figure 3.
    """
    logits = scale * z_i @ z_t.T
    target = torch.arange(len(z_i), device=z_i.device)
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))


def retrieval(z_i: Tensor, z_t: Tensor, captions: list[str]) -> float:
    """Share of images whose nearest text carries their caption, among the distinct captions."""
    distinct = list(dict.fromkeys(captions))
    rows = [captions.index(c) for c in distinct]
    best = (z_i @ z_t[rows].T).argmax(dim=1).tolist()
    return sum(distinct[k] == c for k, c in zip(best, captions)) / len(captions)


class ClipStage(Stage):
    """Trains a `Clip` of our own shape."""

    quality: ClassVar[Quality] = Quality("val/retrieval", "higher")

    def __init__(self, experiment: ClipExperiment, clip: None = None):
        super().__init__(experiment, Clip.from_config(experiment.model))
        self._seen: list[tuple[Tensor, Tensor, list[str]]] = []

    def embed(self, batch: ClipBatch) -> Embedded:
        """Both embeddings and the temperature, capped at 100 as in CLIP, section 2.5."""
        net: Clip = self.net  # type: ignore[assignment]
        z_i, z_t = net(batch.image, batch.tokens)
        return Embedded(z_i, z_t, net.logit_scale.clamp(max=math.log(100)).exp())

    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor:
        """Contrastive loss over the batch."""
        z_i, z_t, scale = self.embed(batch)
        loss = contrastive_loss(z_i, z_t, scale)
        self.log_loss("train", {"loss": loss, "logit_scale": scale}, len(z_i))
        return loss

    def validation_step(self, batch: ClipBatch, batch_idx: int) -> None:
        """Collect embeddings for retrieval over the whole validation set."""
        z_i, z_t, scale = self.embed(batch)
        self.log_loss("val", {"loss": contrastive_loss(z_i, z_t, scale)}, len(z_i))
        self._seen.append((z_i, z_t, batch.captions))

    def on_validation_epoch_end(self) -> None:
        """Zero-shot retrieval: the caption of each image among all distinct ones."""
        if self._seen:
            z_i = torch.cat([s[0] for s in self._seen])
            z_t = torch.cat([s[1] for s in self._seen])
            captions = [c for s in self._seen for c in s[2]]
            self.log("val/retrieval", retrieval(z_i, z_t, captions), sync_dist=True)
        self._seen.clear()

    def look(self, batch: ClipBatch) -> Look:
        """Each image with the caption of the batch that CLIP finds nearest."""
        with torch.no_grad():
            z_i, z_t, _ = self.embed(batch)
        pictures = []
        for k, best in enumerate((z_i @ z_t.T).argmax(dim=1).tolist()[:16]):
            right = batch.captions[best] == batch.captions[k]
            note = "" if right else " [wrong]"
            pictures.append(Picture(to_uint8(batch.image[k]), batch.captions[best] + note))
        return Look(pictures, {})

    def overfit_scores(self, batch: ClipBatch) -> list[Score]:
        """Every caption finds its picture, and every picture its caption."""
        z_i, z_t, _ = self.embed(batch)
        return [
            Score("captions that find their picture", retrieval(z_t, z_i, batch.captions), 1.0),
            Score("pictures that find their caption", retrieval(z_i, z_t, batch.captions), 1.0),
        ]

    def weights(self) -> dict[str, Any]:
        """The open_clip model's own names."""
        return self.net.model.state_dict()  # type: ignore[union-attr]
