"""Batches for training either prior: what the frozen CLIP embeds, and the prior's own tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from data_modules.base import StageData, Tokenize, squares
from data_modules.configs import DataConfig
from data_modules.dataset import Example
from data_modules.transforms import to_tensor
from unclip.types import PriorBatch


@dataclass(frozen=True)
class _Collate:
    clip_tokenize: Tokenize
    tokenize: Tokenize

    def __call__(self, examples: Sequence[Example]) -> PriorBatch:
        captions = [example.caption for example in examples]
        return PriorBatch(
            clip_image=to_tensor([example.images[0] for example in examples]),
            clip_tokens=self.clip_tokenize(captions),
            tokens=self.tokenize(captions),
            captions=captions,
            keys=[example.key for example in examples],
        )


class PriorData(StageData[PriorBatch]):
    """Squares at the CLIP's size with their captions.

    Args:
        config: The experiment's data section.
        clip_image_size: Pixels a side that the CLIP takes.
        clip_tokenize: The CLIP's tokenizer.
        tokenize: The tokenizer of the prior's own caption encoder.
        seed: See `StageData`.
        accumulate: See `StageData`.
    """

    def __init__(
        self,
        config: DataConfig,
        *,
        clip_image_size: int,
        clip_tokenize: Tokenize,
        tokenize: Tokenize,
        seed: int,
        accumulate: int = 1,
    ):
        super().__init__(
            config,
            render_size=clip_image_size,
            transforms=squares(config, clip_image_size),
            collate=_Collate(clip_tokenize, tokenize),
            seed=seed,
            accumulate=accumulate,
        )
