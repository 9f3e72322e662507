"""Batches for training the decoder: each image at its size and at the CLIP's, or with its z_i."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from data_modules.base import StageData
from unclip.data.batches import DecoderBatch, brought_z_i
from unclip.data.config import DataConfig
from unclip.data.dataset import Example, Tokenize, square_transforms
from unclip.data.embedding_store.join import EmbeddingsByKey, SourceWithEmbeddings
from unclip.data.embedding_store.source import EmbeddingSource
from unclip.data.sources import Splits
from unclip.data.transforms import to_tensor


@dataclass(frozen=True)
class _Collate:
    clip_tokenize: Tokenize
    tokenize: Tokenize
    embeddings: EmbeddingsByKey | None

    def __call__(self, examples: Sequence[Example]) -> DecoderBatch:
        captions = [example.caption for example in examples]
        keys = [example.key for example in examples]
        clip_image = z_i = None
        if self.embeddings is None:
            clip_image = to_tensor([example.images[1] for example in examples])
        else:
            z_i = self.embeddings.z_i(keys)
        return DecoderBatch(
            image=to_tensor([example.images[0] for example in examples]),
            clip_image=clip_image,
            clip_tokens=self.clip_tokenize(captions),
            tokens=self.tokenize(captions),
            captions=captions,
            keys=keys,
            z_i=z_i,
            brought=brought_z_i(examples) if self.embeddings is None else None,
        )


class DecoderData(StageData[DecoderBatch]):
    """The same square at two sizes, or at one with its embedding, and its caption.

    Args:
        config: The experiment's data section.
        image_size: Pixels a side that the decoder produces.
        clip_image_size: Pixels a side that the CLIP takes.
        clip_tokenize: The CLIP's tokenizer.
        tokenize: The tokenizer of the decoder's own caption encoder.
        seed: See `StageData`.
        accumulate: See `StageData`.
        embeddings: Have the z_i of ``config.source``; images at the CLIP's size are left out.
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
        embeddings: EmbeddingSource | None = None,
    ):
        by_key = None if embeddings is None else EmbeddingsByKey(embeddings)
        sizes = (image_size, clip_image_size) if by_key is None else (image_size,)
        super().__init__(
            config,
            render_size=max(image_size, clip_image_size),
            transforms=square_transforms(config, *sizes),
            collate=_Collate(clip_tokenize, tokenize, by_key),
            seed=seed,
            accumulate=accumulate,
        )
        self._by_key = by_key

    def _open(self) -> Splits:
        splits = super()._open()
        if self._by_key is None:
            return splits
        self._by_key.check(splits.train)
        return splits._replace(
            train=SourceWithEmbeddings(splits.train, self._by_key),
            held_out=SourceWithEmbeddings(splits.held_out, self._by_key),
        )
