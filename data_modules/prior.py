"""Batches for training either prior: images for the frozen CLIP or its embeddings, and tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from data_modules.base import StageData, open_embeddings
from unclip.data.batches import PriorBatch, brought_z_i
from unclip.data.config import ReadingConfig
from unclip.data.dataset import Example, Tokenize, square_transforms
from unclip.data.embedding_store.rows import PriorRows, RowSubset
from unclip.data.embedding_store.source import EmbeddingSource
from unclip.data.keys import held_out_mask
from unclip.data.readers.source import Source
from unclip.data.sources import Splits
from unclip.data.transforms import to_tensor
from unclip.embeddings.clip import FrozenClip


@dataclass(frozen=True)
class _Collate:
    clip_tokenize: Tokenize
    tokenize: Tokenize | None

    def __call__(self, examples: Sequence[Example]) -> PriorBatch:
        captions = [example.caption for example in examples]
        return PriorBatch(
            clip_image=to_tensor([example.images[0] for example in examples]),
            clip_tokens=self.clip_tokenize(captions),
            tokens=None if self.tokenize is None else self.tokenize(captions),
            captions=captions,
            keys=[example.key for example in examples],
            brought=brought_z_i(examples),
        )


def _whole(batch: PriorBatch) -> PriorBatch:
    return batch


class PriorData(StageData[PriorBatch]):
    """Squares at the CLIP's size with their captions, or rows of an embeddings folder.

    Args:
        config: The experiment's data section.
        clip_image_size: Pixels a side that the CLIP takes.
        clip_tokenize: The CLIP's tokenizer.
        tokenize: The tokenizer of the prior's own caption encoder; None where nothing but
            embeddings is wanted of a batch.
        seed: See `StageData`.
        accumulate: See `StageData`.
        embeddings: Takes the place of ``config.source``, which is not opened then.
    """

    def __init__(
        self,
        config: ReadingConfig,
        *,
        clip_image_size: int,
        clip_tokenize: Tokenize,
        tokenize: Tokenize | None,
        seed: int,
        accumulate: int = 1,
        embeddings: EmbeddingSource | None = None,
    ):
        collate: Any = _Collate(clip_tokenize, tokenize)
        self._contexts: tuple[int, int] | None = None
        if embeddings is not None:
            collate, config = _whole, replace(config, source=str(embeddings.path))
            if tokenize is not None or embeddings.z_t is None:
                own = tokenize or clip_tokenize
                self._contexts = clip_tokenize([""]).shape[1], own([""]).shape[1]
        super().__init__(
            config,
            render_size=clip_image_size,
            transforms=square_transforms(config, clip_image_size),
            collate=collate,
            seed=seed,
            accumulate=accumulate,
        )
        self._embeddings = embeddings

    @classmethod
    def of(cls, experiment: Any, clip: FrozenClip, *, tokenize: Tokenize | None) -> PriorData:
        """Of an experiment whose ``data`` is to be encoded by ``clip``."""
        return cls(
            experiment.data,
            clip_image_size=clip.model.image_size,
            clip_tokenize=clip.model.tokenize,
            tokenize=tokenize,
            embeddings=open_embeddings(experiment.data.embeddings, clip),
            seed=experiment.trainer.seed,
            accumulate=experiment.trainer.accumulate,
        )

    def _open(self) -> Splits:
        if self._embeddings is None:
            return super()._open()
        if self._contexts is not None:
            self._embeddings.tokens(max(self._contexts))  # made now, where there are none
        kept = held_out_mask(self._embeddings.hashes(), self.config.held_out)
        return Splits(
            RowSubset(self._embeddings, np.flatnonzero(~kept)[: self.config.limit]),
            RowSubset(self._embeddings, np.flatnonzero(kept)),
        )

    def _dataset(self, source: Source, *, training: bool) -> Dataset:
        if not isinstance(source, RowSubset):
            return super()._dataset(source, training=training)
        return PriorRows(
            source,
            contexts=self._contexts,
            captions=not training,
            seed=self._seed if training else 0,
            on_error=self.config.on_error,
        )
