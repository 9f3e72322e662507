"""Batches for training CLIP."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from lightning.pytorch.utilities import rank_zero_only

from data_modules.base import StageData
from unclip.data.batches import ClipBatch
from unclip.data.config import DataConfig
from unclip.data.dataset import Example, Tokenize, square_transforms
from unclip.data.loader import Loader
from unclip.data.transforms import to_tensor

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Collate:
    tokenize: Tokenize

    def __call__(self, examples: Sequence[Example]) -> ClipBatch:
        captions = [example.caption for example in examples]
        return ClipBatch(
            image=to_tensor([example.images[0] for example in examples]),
            tokens=self.tokenize(captions),
            captions=captions,
            keys=[example.key for example in examples],
        )


class ClipData(StageData[ClipBatch]):
    """Squares with their captions.

    Args:
        config: The experiment's data section.
        image_size: Pixels a side.
        tokenize: The CLIP's tokenizer.
        seed: See `StageData`.
        accumulate: See `StageData`.
    """

    def __init__(
        self,
        config: DataConfig,
        *,
        image_size: int,
        tokenize: Tokenize,
        seed: int,
        accumulate: int = 1,
    ):
        super().__init__(
            config,
            render_size=image_size,
            transforms=square_transforms(config, image_size),
            collate=_Collate(tokenize),
            seed=seed,
            accumulate=accumulate,
        )

    def val_dataloader(self) -> Loader | list[Loader]:
        """As of `StageData`; none with a single sample, which any CLIP ranks first of all."""
        if min(len(self.splits.held_out), self.config.val_samples) == 1:
            rank_zero_only(logger.warning)(
                "data.held_out: one held-out sample has no other to be told from, so there is no "
                "validation; raise data.held_out or data.val_samples"
            )
            return []
        return super().val_dataloader()
