"""What `data.cache_embeddings` has to know of a run's data."""

from __future__ import annotations

from typing import Any

from data_modules.base import StageData
from unclip.data.decode import BadSample
from unclip.data.loader import local_batch_size
from unclip.data.readers.source import Source, digest
from unclip.training.encodings import CachedData, Needed

_TRIED = 16  # samples, until one can be read


def cached_data(experiment: Any, data: StageData) -> CachedData | None:
    """Of the ``data`` of an experiment; None where the CLIP encodes nothing that may be kept."""
    config, trainer = experiment.data, experiment.trainer
    how = getattr(config, "cache_embeddings", "never")
    if how == "never" or config.embeddings is not None:
        return None
    train, held_out = data.splits.train, data.splits.held_out
    images = len(train) + min(len(held_out), config.val_samples)
    world, accumulate = trainer.processes, trainer.accumulate
    needed = Needed(
        data=digest((train.fingerprint(), held_out.fingerprint())),
        images=images,
        captions=images * _captions(train),
        batch=local_batch_size(config.batch_size, world=world, accumulate=accumulate),
    )
    draws = trainer.max_steps * config.batch_size
    return CachedData(how, needed, draws, augmented=config.crop == "random" or config.flip)


def _captions(source: Source) -> int:
    """How many a sample has, by the first that can be read."""
    for index in range(min(len(source), _TRIED)):
        try:
            return max(1, len(source[index].captions))
        except BadSample:
            continue
    return 1
