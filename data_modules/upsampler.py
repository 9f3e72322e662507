"""Batches for training an upsampler: random patches of the images at full size."""

from __future__ import annotations

from collections.abc import Sequence

from data_modules.base import StageData
from unclip.data.batches import UpsamplerBatch
from unclip.data.config import UpsamplerDataConfig
from unclip.data.dataset import Example, Transforms
from unclip.data.transforms import Patch, to_tensor


def _collate(examples: Sequence[Example]) -> UpsamplerBatch:
    return UpsamplerBatch(
        image=to_tensor([example.images[0] for example in examples]),
        captions=[example.caption for example in examples],
        keys=[example.key for example in examples],
    )


class UpsamplerData(StageData[UpsamplerBatch]):
    """Patches of side ``crop_fraction * image_size``; `data.crop` plays no part.

    Validation takes patches of the same side, the same ones every time.

    Args:
        config: The experiment's data section.
        image_size: Pixels a side that the upsampler produces.
        seed: See `StageData`.
        accumulate: See `StageData`.
    """

    def __init__(
        self, config: UpsamplerDataConfig, *, image_size: int, seed: int, accumulate: int = 1
    ):
        side = max(1, round(config.crop_fraction * image_size))
        super().__init__(
            config,
            render_size=image_size,
            transforms=Transforms(
                Patch(image_size=image_size, side=side, flip=config.flip),
                Patch(image_size=image_size, side=side),
            ),
            collate=_collate,
            seed=seed,
            accumulate=accumulate,
        )
