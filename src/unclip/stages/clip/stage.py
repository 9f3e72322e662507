"""CLIP: contrastive training of the image and text encoders (arXiv 2103.00020)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, distributed

from data_modules.clip import ClipData
from unclip.common.images import CaptionedImage, to_uint8
from unclip.data.batches import ClipBatch
from unclip.embeddings.clip import ClipOutput
from unclip.embeddings.tokens import Tokenizer
from unclip.stages.clip.config import ClipExperiment
from unclip.stages.clip.network import build_network
from unclip.stages.experiment import ParentSizes
from unclip.stages.interface import LoadedParents
from unclip.training.sam import Climb, climb
from unclip.training.stage import Monitor, Preview, Score, Stage
from unclip.training.world import World

ALONE = World(0, 1)


class GatherRows(torch.autograd.Function):
    """Rows ``[B, D]`` of every process as ``[processes * B, D]``, in the order of the global batch.

    Row i of process r is sample ``i * world + r`` (see `StepRandom`). Each process's loss depends
    on all rows, so the gradients that come back are added up over the processes.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        """Of this process's ``rows``."""
        parts = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, rows.contiguous())
        return torch.stack(parts, dim=1).flatten(0, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """To this process's rows, from the losses of all."""
        total = gradients[0].contiguous()
        distributed.all_reduce(total)
        return total[distributed.get_rank() :: distributed.get_world_size()]


def contrastive_loss(z_i: Tensor, z_t: Tensor, scale: Tensor, world: World = ALONE) -> Tensor:
    """Symmetric cross-entropy of the similarities of ``z_i`` and ``z_t`` ``[B, D]``, both unit.

    Row k of one belongs to row k of the other; CLIP, figure 3. With several processes each
    compares its own rows with those of all; the mean over processes is the global batch's loss.
    """
    all_i, all_t, target = z_i, z_t, torch.arange(len(z_i), device=z_i.device)
    if world.size > 1:
        all_i, all_t = GatherRows.apply(z_i), GatherRows.apply(z_t)
        target = target * world.size + world.rank
    by_image = F.cross_entropy(scale * z_i @ all_t.T, target)
    return 0.5 * (by_image + F.cross_entropy(scale * z_t @ all_i.T, target))


def retrieval(z_i: Tensor, z_t: Tensor, captions: list[str]) -> float:
    """Share of images whose nearest text carries their caption, among the distinct captions."""
    distinct = list(dict.fromkeys(captions))
    rows = [captions.index(c) for c in distinct]
    best = (z_i @ z_t[rows].T).argmax(dim=1).tolist()
    return sum(distinct[k] == c for k, c in zip(best, captions)) / len(captions)


class ClipStage(Stage):
    """Trains a `Clip` of our own shape."""

    monitor: ClassVar[Monitor] = Monitor("val/retrieval", "higher")

    def __init__(self, experiment: ClipExperiment):
        super().__init__(experiment, build_network(experiment, ParentSizes()))
        self._seen: list[tuple[Tensor, Tensor, list[str]]] = []
        self._climb: Climb | None = None

    def on_train_start(self) -> None:
        """What `Clip` chooses for a forward pass must hold for blocks that are recomputed too."""
        torch.backends.cuda.enable_flash_sdp(self.device.type != "cpu")

    def on_train_end(self) -> None:
        """Torch's own choice again."""
        torch.backends.cuda.enable_flash_sdp(True)

    def embed(self, batch: ClipBatch) -> ClipOutput:
        """Both embeddings and the temperature."""
        embedded: ClipOutput = self.net(batch.image, batch.tokens)
        return embedded

    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor:
        """Contrastive loss over the batch of all processes; with SAM the one at w + e."""
        rho = self.experiment.optim.sam_rho
        self._climb = climb(self.net, rho) if rho else None
        z_i, z_t, scale = self.embed(batch)
        loss = contrastive_loss(z_i, z_t, scale, World.here())
        self.log_loss("train", {"loss": loss, "logit_scale": scale}, len(z_i))
        if self._climb is not None:
            self._climb.up(loss)
            loss = contrastive_loss(*self.embed(batch), World.here())
        return loss

    def on_after_backward(self) -> None:
        """The optimizer moves w itself, by the gradient at w + e."""
        if self._climb is not None:
            self._climb.back()
            self._climb = None

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

    def preview(self, batch: ClipBatch) -> Preview:
        """Each image with the caption of the batch that CLIP finds nearest."""
        with torch.no_grad():
            z_i, z_t, _ = self.embed(batch)
        images = []
        for k, best in enumerate((z_i @ z_t.T).argmax(dim=1).tolist()[:16]):
            right = batch.captions[best] == batch.captions[k]
            note = "" if right else " [wrong]"
            images.append(CaptionedImage(to_uint8(batch.image[k]), batch.captions[best] + note))
        return Preview(images, {})

    def overfit_scores(self, batch: ClipBatch) -> list[Score]:
        """Every caption finds its image, and every image its caption."""
        z_i, z_t, _ = self.embed(batch)
        return [
            Score("captions that find their image", retrieval(z_t, z_i, batch.captions), 1.0),
            Score("images that find their caption", retrieval(z_i, z_t, batch.captions), 1.0),
        ]

    def weights(self) -> dict[str, Any]:
        """The open_clip model's own names and shapes."""
        weights = {name.removeprefix("model."): t for name, t in super().weights().items()}
        return {**weights, "logit_scale": weights["logit_scale"].reshape(())}


def build_stage(experiment: ClipExperiment, parents: LoadedParents) -> ClipStage:
    """See `unclip.stages.row.Row`."""
    return ClipStage(experiment)


def data_module(experiment: ClipExperiment, clip: None = None) -> ClipData:
    """See `unclip.stages.row.Row`."""
    return ClipData(
        experiment.data,
        image_size=experiment.model.image_size,
        tokenize=Tokenizer(experiment.model.context),
        seed=experiment.trainer.seed,
        accumulate=experiment.trainer.accumulate,
    )
