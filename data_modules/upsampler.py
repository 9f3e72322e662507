"""Batches for training an upsampler: random patches of the images at full size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from data_modules.base import StageData
from unclip.data.batches import UpsamplerBatch
from unclip.data.config import UpsamplerDataConfig
from unclip.data.dataset import Example, Tokenize, Transforms
from unclip.data.transforms import Patch, to_tensor


@dataclass(frozen=True)
class _Collate:
    tokenize: Tokenize | None

    def __call__(self, examples: Sequence[Example]) -> UpsamplerBatch:
        captions = [example.caption for example in examples]
        return UpsamplerBatch(
            image=to_tensor([example.images[0] for example in examples]),
            captions=captions,
            keys=[example.key for example in examples],
            tokens=None if self.tokenize is None else self.tokenize(captions),
        )


class UpsamplerData(StageData[UpsamplerBatch]):
    """Patches of side ``crop_fraction * image_size``; `data.crop` plays no part.

    Validation takes patches of the same side, the same ones every time.

    Args:
        config: The experiment's data section.
        image_size: Pixels a side that the upsampler produces.
        seed: See `StageData`.
        accumulate: See `StageData`.
        tokenize: The tokenizer of an upsampler that reads captions.
    """

    def __init__(
        self,
        config: UpsamplerDataConfig,
        *,
        image_size: int,
        seed: int,
        accumulate: int = 1,
        tokenize: Tokenize | None = None,
    ):
        side = max(1, round(config.crop_fraction * image_size))
        super().__init__(
            config,
            render_size=image_size,
            transforms=Transforms(
                Patch(image_size=image_size, side=side, flip=config.flip),
                Patch(image_size=image_size, side=side),
            ),
            collate=_Collate(tokenize),
            seed=seed,
            accumulate=accumulate,
        )
