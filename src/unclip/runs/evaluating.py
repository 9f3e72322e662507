"""Samples measured against held-out images while a stage trains (`evaluation.every`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor

from data_modules.base import StageData
from unclip.common.counted import counted
from unclip.common.errors import UserError
from unclip.common.images import to_uint8
from unclip.evaluation.features.clips import network_of
from unclip.evaluation.features.network import FeatureNetwork, Weights, open_network
from unclip.evaluation.metrics.kernels import kid
from unclip.training.config import EvaluationConfig
from unclip.training.stage import Monitor, Stage
from unclip.training.strategies import full_parameters
from unclip.training.world import World

KEY = "evaluation.features"
LEAST = 4  # validation samples: a distance needs two on either side


class EvaluateSamples(L.Callback):
    """Logs ``val/kid_NETWORK`` in every ``every``-th validation, and in that of the last step.

    The first half of the validation samples give the conditions, the other half are the real
    images, so that no sample is compared with the image it was made from. Noise and samples are
    the same every time: a resumed run has the same figures. KID has no bias, however few they are.

    Args:
        config: Of the experiment.
        stage: That trains; `own` features are those of its CLIP.
        data: Its samples.

    Raises:
        UserError: The network cannot be opened, or too few samples are held out.
    """

    def __init__(self, config: EvaluationConfig, stage: Stage, data: StageData):
        self.config = config
        self.data = data
        self.samples = min(len(data.splits.held_out), data.config.val_samples)
        if self.samples < LEAST:
            raise UserError(
                f"evaluation.every: {counted(self.samples, 'sample')} held out for validation; "
                f"needs {LEAST} or more (data.held_out, data.val_samples)"
            )
        self._network = self._open(stage, torch.device("cpu"))
        self.monitor = Monitor(f"val/kid_{self._network.name}", "lower")

    def _open(self, stage: Stage, device: torch.device) -> FeatureNetwork:
        if self.config.features == "own":
            if stage.clip is None:
                raise UserError(f"{KEY}: this stage has no CLIP of its own; name a network")
            return network_of(stage.clip, "own", "own-CLIP", Weights(None, "32", device))
        try:
            return open_network(self.config.features, device=device)
        except UserError as error:
            raise UserError(str(error).replace("--features", KEY, 1)) from None

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure, unless this validation is left out."""
        if not self.due(trainer):
            return
        stage: Any = pl_module
        if self._network.device != stage.device:
            self._network = self._open(stage, stage.device)
        made, real = self._features(trainer, stage)
        if min(len(made), len(real)) < LEAST // 2:  # the others cannot be read
            return
        blocks = kid(made, real)
        stage.log(self.monitor.name, sum(blocks) / len(blocks))

    def due(self, trainer: L.Trainer) -> bool:
        """Whether the validation at this step is one that measures."""
        step, every = trainer.global_step, trainer.val_check_interval
        if trainer.state.fn != "fit" or step >= trainer.max_steps:
            return True
        number = step * trainer.accumulate_grad_batches // int(every)
        return number % self.config.every == 0

    def _features(self, trainer: L.Trainer, stage: Stage) -> tuple[Tensor, Tensor]:
        """Of samples and of real images, in their order; processes share the batches."""
        world, found = World.here(), []
        precision = trainer.precision_plugin.forward_context()
        with torch.no_grad(), precision, full_parameters(stage.sampling_net):
            for number, (first, batch) in enumerate(self._batches(stage)):
                if number % world.size == world.rank:
                    made = first < self.samples // 2
                    images = stage.sampled(batch, first) if made else batch.image
                    found.append((first, made, self._encode(images)))
        every = [row for rows in world.gather(found) for row in rows]
        every.sort(key=lambda row: row[0])
        dim = self._network.dim
        sides = {True: [torch.empty(0, dim)], False: [torch.empty(0, dim)]}
        for _, made, features in every:
            sides[made].append(features)
        return torch.cat(sides[True]), torch.cat(sides[False])

    def _batches(self, stage: Stage) -> Iterator[tuple[int, Any]]:
        """Validation batches on the device, of one half each, and their first sample's number."""
        loader: Any = self.data.val_dataloader()
        first, half = 0, self.samples // 2
        for batch in loader:
            size = len(batch.image)
            cut = min(max(half - first, 0), size)
            for rows in (slice(0, cut), slice(cut, size)):
                if rows.start < rows.stop:
                    some = _rows(batch, rows)
                    yield first + rows.start, stage.transfer_batch_to_device(some, stage.device, 0)
            first += size

    def _encode(self, images: Tensor) -> Tensor:
        """Features ``[B, D]`` of images in [-1, 1], as they would be saved."""
        pixels = torch.from_numpy(to_uint8(images)).permute(0, 3, 1, 2)
        device = self._network.device
        with torch.autocast(device.type, enabled=False):
            return self._network.encode(pixels.to(device)).features.double().cpu()


def _rows(batch: NamedTuple, rows: slice) -> Any:
    """Some samples of a batch; what a frozen CLIP has said of the whole is left out."""
    fields = {name: part for name, part in batch._asdict().items() if name != "encoded"}
    kept = {name: None if part is None else part[rows] for name, part in fields.items()}
    return batch._replace(**kept, **({"encoded": None} if "encoded" in batch._fields else {}))
