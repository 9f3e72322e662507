"""CLIP: contrastive training of the image and text encoders (arXiv 2103.00020)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, distributed

from data_modules.clip import ClipData
from unclip.common.images import CaptionedImage, to_uint8
from unclip.data.batches import ClipBatch
from unclip.embeddings.clip import ClipOutput
from unclip.embeddings.tokens import Tokenizer
from unclip.stages.clip.cached_gradients import StepLoss, step_loss
from unclip.stages.clip.config import ClipExperiment
from unclip.stages.clip.network import build_network
from unclip.stages.experiment import ParentSizes
from unclip.stages.interface import LoadedParents
from unclip.training import strategies
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
    In float32, whatever autocast is on: bfloat16 would round logits of up to 100 to halves.
    """
    with torch.autocast(z_i.device.type, enabled=False):
        return _symmetric_loss(z_i.float(), z_t.float(), scale.float(), world)


def _symmetric_loss(z_i: Tensor, z_t: Tensor, scale: Tensor, world: World) -> Tensor:
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
    with torch.autocast(z_i.device.type, enabled=False):  # bfloat16 ties what is near
        best = (z_i @ z_t[rows].T).argmax(dim=1).tolist()
    return sum(distinct[k] == c for k, c in zip(best, captions)) / len(captions)


class ClipStage(Stage):
    """Trains a `Clip` of our own shape."""

    monitor: ClassVar[Monitor] = Monitor("val/retrieval", "higher")
    exported: ClassVar[str] = "model"

    def __init__(self, experiment: ClipExperiment):
        with strategies.building(experiment.trainer):
            net = build_network(experiment, ParentSizes())
        super().__init__(experiment, net)
        self._seen: list[tuple[ClipOutput, list[str]]] = []  # of a validation
        self._climb: Climb | None = None
        self._batches: list[ClipBatch] = []  # micro-batches of this step

    def on_train_start(self) -> None:
        """What `Clip` chooses for a forward pass must hold for blocks that are recomputed too."""
        super().on_train_start()
        self._cap_scale()  # a checkpoint of an earlier version may be above
        torch.backends.cuda.enable_flash_sdp(self.device.type != "cpu")

    def on_train_end(self) -> None:
        """Torch's own choice again."""
        torch.backends.cuda.enable_flash_sdp(True)

    def embed(self, batch: ClipBatch) -> ClipOutput:
        """Both embeddings and the temperature."""
        embedded: ClipOutput = self.net(batch.image, batch.tokens)
        return embedded

    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor:
        """Contrastive loss over the global batch, in the last of its micro-batches.

        With SAM its gradient is the one at w + e. In the micro-batches before there is nothing to
        differentiate yet; Lightning wants a loss of them all the same.
        """
        self._batches.append(batch)
        if not self.completes_step:
            return torch.zeros((), device=self.device, requires_grad=True)
        batches, self._batches = self._batches, []
        rho = self.experiment.optim.sam_rho
        self._climb = climb(self.net, rho) if rho else None
        step = self._step_loss(batches)
        values = {"loss": step.value, "logit_scale": step.scale}
        self.log_loss("train", values, sum(len(each.image) for each in batches))
        pieces = step.pieces
        if self._climb is not None:
            self._climb.up(pieces)
            pieces = self._step_loss(batches).pieces
        last = self._all_but_last(pieces, len(batches))
        if self._climb is not None:
            self._climb.before_last_backward()
        if len(batches) == 1:
            return last
        # Its value is the loss, its gradient the last piece's; Lightning divides by the count.
        return step.value + len(batches) * (last - last.detach())

    def _step_loss(self, batches: list[ClipBatch]) -> StepLoss:
        def loss(z_i: Tensor, z_t: Tensor, scale: Tensor) -> Tensor:
            return contrastive_loss(z_i, z_t, scale, World.here())

        return step_loss(self.net, self.embed, batches, loss)

    def _all_but_last(self, pieces: Iterator[Tensor], count: int) -> Tensor:
        """Add up the gradients of all ``pieces`` but the last, which is Lightning's to do."""
        for _ in range(count - 1):
            piece = next(pieces)
            with torch.autocast(piece.device.type, enabled=False):
                piece.backward()
        return next(pieces)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Cap the temperature where the optimizer left it, so that its gradient never vanishes."""
        super().optimizer_step(*args, **kwargs)
        self._cap_scale()

    def _cap_scale(self) -> None:
        net: Any = self.net
        net.cap_scale()

    def on_after_backward(self) -> None:
        """The optimizer moves w itself, by the gradient at w + e."""
        if self._climb is not None:
            self._climb.back()
            self._climb = None

    def validation_step(self, batch: ClipBatch, batch_idx: int) -> None:
        """Collect embeddings of the whole validation set."""
        self._seen.append((self.embed(batch), batch.captions))

    def on_validation_epoch_end(self) -> None:
        """The loss, and zero-shot retrieval: each image's caption among all distinct ones.

        The loss is of a global batch at a time, however few samples a process loads at once.
        """
        if self._seen:
            z_i = torch.cat([embedded.z_i for embedded, _ in self._seen])
            z_t = torch.cat([embedded.z_t for embedded, _ in self._seen])
            scale, size = self._seen[0][0].scale, self.experiment.data.batch_size
            losses = [
                (contrastive_loss(i, t, scale) * len(i), len(i))
                for i, t in zip(z_i.split(size), z_t.split(size))
                if len(i) > 1 or len(z_i) == 1  # a last sample alone has nothing to contrast with
            ]
            total, count = (
                torch.stack([loss for loss, _ in losses]).sum(),
                sum(n for _, n in losses),
            )
            self.log("val/loss", total / count, sync_dist=True)
            captions = [caption for _, captions in self._seen for caption in captions]
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
        weights = super().weights()
        if "logit_scale" in weights:  # not on all processes
            weights["logit_scale"] = weights["logit_scale"].reshape(())
        return weights


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
