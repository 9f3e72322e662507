"""What the data modules of all stages share: opening the source, splitting it, making loaders."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import Dataset

from unclip.common.counted import counted
from unclip.common.home import expanded
from unclip.data.config import ReadingConfig, TrainingDataConfig
from unclip.data.dataset import Example, Examples, Transforms
from unclip.data.embedding_store.source import EmbeddingSource
from unclip.data.loader import BatchOrder, Loader, ResumableLoader, local_batch_size
from unclip.data.mixture import order_of
from unclip.data.order import Draws, PermutedOrder
from unclip.data.readers.inventory import inventory_of
from unclip.data.readers.source import Source, digest
from unclip.data.skips import Skips
from unclip.data.sources import Splits, open_splits
from unclip.embeddings.clip import FrozenClip
from unclip.training.encodings import CachedData, Encodings, Reads

logger = logging.getLogger(__name__)

Batch = TypeVar("Batch")


class StageData(LightningDataModule, Generic[Batch]):
    """Training and validation batches of one stage.

    ``config.batch_size`` counts samples per optimizer step; a loader batch has
    ``batch_size / (processes * accumulate)`` of them. Every process validates on all of the first
    ``val_samples`` held-out samples, so that none waits for another.

    Args:
        config: Source, batch size, split and the policy for bad samples.
        render_size: Pixels a side at which scenes are drawn.
        transforms: Make the network's images of a sample's.
        collate: Makes the stage's batch; picklable.
        seed: Chooses order, captions and crops of the training samples.
        accumulate: Loader batches per optimizer step.

    Attributes:
        cached: What `data.cache_embeddings` needs to know; None keeps nothing.
    """

    def __init__(
        self,
        config: ReadingConfig,
        *,
        render_size: int,
        transforms: Transforms,
        collate: Callable[[Sequence[Example]], Batch],
        seed: int,
        accumulate: int = 1,
    ):
        super().__init__()
        self.config = config
        self._render_size = render_size
        self._transforms = transforms
        self._collate = collate
        self._seed = seed
        self._accumulate = accumulate
        self._splits: Splits | None = None
        self._counted = False
        self.cached: CachedData | None = None
        self._encodings: Encodings | None = None
        self._skips = Skips(config.max_skipped)
        self._held_out_skips = Skips(config.max_skipped)

    def keep_encodings(self, clip: FrozenClip, reads: Reads) -> None:
        """From now on give batches what ``clip``, on its device, says of them, as `cached` says."""
        self._encodings = None if self.cached is None else self.cached.encodings(clip, reads)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Look up what the frozen CLIP has said of the batch before."""
        return batch if self._encodings is None else self._encodings.look_up(batch)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Have the rest encoded, on the device."""
        return batch if self._encodings is None else self._encodings.complete(batch)

    @property
    def skipped(self) -> int:
        """How many bad training samples were left out since this process started."""
        return self._skips.count

    @property
    def splits(self) -> Splits:
        """The samples, opened when first needed.

        Raises:
            UserError: ``config.source`` cannot be opened.
        """
        if self._splits is None:
            self._splits = self._open()
        return self._splits

    def _open(self) -> Splits:
        return open_splits(self.config, image_size=self._render_size)

    def setup(self, stage: str | None = None) -> None:
        """Open the source, so that a wrong one is reported before training starts.

        What lies in it and is not read is logged with the reasons.
        """
        files = inventory_of(self.splits.train)
        if files is not None and files.left_out and not self._counted:
            left = f"{files.total - files.read:,} of {counted(files.total, 'file')} left out"
            rank_zero_only(logger.warning)("data.source: %s: %s", left, files.reasons())
        self._counted = True

    def train_dataloader(self) -> ResumableLoader:
        """Batches without end of state, epoch after epoch (see `ResumableLoader`).

        Raises:
            UserError: ``data.batch_size`` does not suit the data or the number of processes.
        """
        splits, config = self.splits, self.config
        assert isinstance(config, TrainingDataConfig)
        order = order_of(
            splits.lengths or (len(splits.train),),
            splits.train.shards(),
            weights=splits.weights,
            batch_size=config.batch_size,
            window=config.shuffle_window,
            seed=self._seed,
            run=config.scenes.contrast if config.source == "scenes" else 1,
        )
        fingerprint = splits.train.fingerprint()
        if not isinstance(order, PermutedOrder):
            fingerprint = digest((fingerprint, config.shuffle_window, splits.weights))
        return ResumableLoader(
            self._dataset(splits.train, training=True),
            order=BatchOrder(
                order,
                batch_size=config.batch_size,
                rank=self.trainer.global_rank if self.trainer else 0,
                world=self._world,
                accumulate=self._accumulate,
            ),
            collate=self._collate,
            fingerprint=fingerprint,
            num_workers=self.config.num_workers,
            skips=self._skips,
            processes=self._processes_here,
        )

    def val_dataloader(self) -> Loader | list[Loader]:
        """The same held-out batches at every call and seed; an empty list when there are none."""
        source = self.splits.held_out
        count = min(len(source), self.config.val_samples)
        if count == 0:
            return []
        local = local_batch_size(
            self.config.batch_size, world=self._world, accumulate=self._accumulate
        )
        return Loader(
            self._dataset(source, training=False),
            batches=_batches(np.arange(count), local),
            collate=self._collate,
            num_workers=self.config.num_workers,
            skips=self._held_out_skips,
            processes=self._processes_here,
        )

    def one_pass(
        self, split: str = "train", *, limit: int | None = None, rank: int = 0, world: int = 1
    ) -> Loader:
        """One rank's share of the first ``limit`` samples of a part, in order and undisturbed.

        Rank r of w takes samples r, r + w, ...; batches are of ``config.batch_size`` each. Of the
        held-out part (``split`` not `train`) at most ``config.val_samples`` are there.
        """
        train = split == "train"
        source = self.splits.train if train else self.splits.held_out
        most = limit if train else self.config.val_samples
        count = len(source) if most is None else min(len(source), most)
        return Loader(
            self._dataset(source, training=False),
            batches=_batches(np.arange(rank, count, world), self.config.batch_size),
            collate=self._collate,
            num_workers=self.config.num_workers,
            skips=Skips(self.config.max_skipped),
        )

    @property
    def _world(self) -> int:
        return self.trainer.world_size if self.trainer else 1

    @property
    def _processes_here(self) -> int:
        return getattr(self.trainer, "num_devices", 1)

    def _dataset(self, source: Source, *, training: bool) -> Dataset:
        return Examples(
            source,
            self._transforms.train if training else self._transforms.held_out,
            seed=self._seed if training else 0,
            on_error=self.config.on_error,
        )


def _batches(numbers: np.ndarray, size: int) -> list[Draws]:
    """``numbers`` in their order, ``size`` at a time."""
    return [Draws.of(0, numbers[first : first + size]) for first in range(0, len(numbers), size)]


def open_embeddings(path: str | None, clip: FrozenClip) -> EmbeddingSource | None:
    """What ``data.embeddings`` names, if anything; those of another CLIP are refused."""
    if path is None:
        return None
    source = EmbeddingSource(expanded(path))
    source.check_clip(clip)
    return source
