"""The embeddings of a data set, batch by batch, in one pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor
from tqdm import tqdm

from unclip.common.errors import UserError
from unclip.common.progress import bar_interval
from unclip.common.types import TextFeatures
from unclip.data.batches import DecoderBatch, PriorBatch
from unclip.embeddings.clip import Clip
from unclip.embeddings.lengths import stored
from unclip.embeddings.tokens import token_mask
from unclip.training.world import rank_and_world


class OnePass(Protocol):
    """A data module that can be read once, in order (`data_modules.prior.PriorData`)."""

    config: Any

    def one_pass(self, split: str, *, limit: int | None, rank: int, world: int) -> Any:
        """Batches `PriorBatch` of one process's share of the first ``limit`` samples."""
        ...


class EmbeddedBatch(NamedTuple):
    """A batch of one pass over the data."""

    numbers: Tensor  # [B], of the samples
    z_i: Tensor  # [B, D]
    z_t: Tensor  # [B, D]
    batch: PriorBatch


def embedded_batches(
    clip: Clip,
    data: OnePass,
    *,
    device: torch.device,
    limit: int | None = None,
    split: str = "train",
    title: str = "embedding",
) -> Iterator[EmbeddedBatch]:
    """One process's share of a pass over ``data``, embedded by ``clip``, with a progress bar."""
    rank, world = rank_and_world()
    loader = data.one_pass(split, limit=limit, rank=rank, world=world)
    size = data.config.batch_size
    clip = clip.to(device)
    bar = tqdm(loader, desc=title, unit="batch", disable=rank > 0, mininterval=bar_interval())
    with torch.no_grad():
        for k, batch in enumerate(bar):
            batch = move_data_to_device(batch, device)
            z_i, z_t = z_i_of(clip, batch), z_t_of(clip, batch)
            numbers = rank + world * (k * size + torch.arange(len(z_i)))
            yield EmbeddedBatch(numbers, z_i, z_t, batch)


def z_i_of(clip: Clip, batch: PriorBatch | DecoderBatch) -> Tensor:
    """z_i ``[B, D]`` of a batch: of disk, else what ``clip`` says of its images.

    Samples that bring the z_i they were drawn from keep it.

    Raises:
        UserError: Such a z_i is of another length than ``clip``'s.
    """
    found = _z_i_of(clip, batch)
    if batch.brought is None:
        return found
    if batch.brought.shape != found.shape:
        row = int(batch.brought.isnan().any(1).logical_not().nonzero()[0, 0])
        raise UserError(
            f"data.source: {batch.keys[row]}: its z_i has {batch.brought.shape[1]} numbers, the "
            f"CLIP's have {found.shape[1]}; use the CLIP of the cascade that drew it"
        )
    return torch.where(batch.brought.isnan(), found, stored(batch.brought, clip.embeddings))


def _z_i_of(clip: Clip, batch: PriorBatch | DecoderBatch) -> Tensor:
    if batch.encoded is not None and batch.encoded.z_i is not None:
        return batch.encoded.z_i
    if batch.z_i is not None:
        return stored(batch.z_i, clip.embeddings)
    assert batch.clip_image is not None
    return clip.encode_image(batch.clip_image)


def z_t_of(clip: Clip, batch: PriorBatch | DecoderBatch) -> Tensor:
    """z_t ``[B, D]`` of a batch: what it has from disk, else what ``clip`` says of its captions."""
    if batch.encoded is not None and batch.encoded.z_t is not None:
        return batch.encoded.z_t
    if isinstance(batch, PriorBatch) and batch.z_t is not None:
        return stored(batch.z_t, clip.embeddings)
    assert batch.clip_tokens is not None
    return clip.encode_text(batch.clip_tokens).z_t


def text_of(clip: Clip, batch: PriorBatch | DecoderBatch) -> TextFeatures:
    """All that ``clip`` says of a batch's captions."""
    assert batch.clip_tokens is not None
    known = batch.encoded
    if known is None or known.features is None or known.z_t is None:
        return clip.encode_text(batch.clip_tokens)
    return TextFeatures(known.z_t, known.features, token_mask(batch.clip_tokens))
