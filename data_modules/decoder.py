"""Batches for training the decoder: each picture at its size and at the CLIP's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from data_modules.base import StageData, Tokenize, squares
from data_modules.configs import DataConfig
from data_modules.dataset import Example
from data_modules.transforms import to_tensor
from unclip.types import DecoderBatch


@dataclass(frozen=True)
class _Collate:
    clip_tokenize: Tokenize
    tokenize: Tokenize

    def __call__(self, examples: Sequence[Example]) -> DecoderBatch:
        captions = [example.caption for example in examples]
        return DecoderBatch(
            image=to_tensor([example.images[0] for example in examples]),
            clip_image=to_tensor([example.images[1] for example in examples]),
            clip_tokens=self.clip_tokenize(captions),
            tokens=self.tokenize(captions),
            captions=captions,
            keys=[example.key for example in examples],
        )


class DecoderData(StageData[DecoderBatch]):
    """The same square at two sizes, with its caption.

    Args:
        config: The experiment's data section.
        image_size: Pixels a side that the decoder produces.
        clip_image_size: Pixels a side that the CLIP takes.
        clip_tokenize: The CLIP's tokenizer.
        tokenize: The tokenizer of the decoder's own caption encoder.
        seed: See `StageData`.
        accumulate: See `StageData`.
    """

    def __init__(
        self,
        config: DataConfig,
        *,
        image_size: int,
        clip_image_size: int,
        clip_tokenize: Tokenize,
        tokenize: Tokenize,
        seed: int,
        accumulate: int = 1,
    ):
        super().__init__(
            config,
            render_size=max(image_size, clip_image_size),
            transforms=squares(config, image_size, clip_image_size),
            collate=_Collate(clip_tokenize, tokenize),
            seed=seed,
            accumulate=accumulate,
        )
