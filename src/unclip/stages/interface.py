"""What a stage is given: its loaded parents, and the tensors of a simulated step."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from unclip.common.types import TextFeatures
from unclip.embeddings.clip import FrozenClip
from unclip.embeddings.codec import Codec
from unclip.stages.experiment import ParentSizes


class LoadedParents(NamedTuple):
    """The frozen networks that a stage depends on."""

    clip: FrozenClip | None = None
    codec: Codec | None = None
    pca: str = ""  # where the codec comes from

    def sizes(self) -> ParentSizes:
        """What they decide of the stage's network."""
        sizes = ParentSizes()
        if self.clip is not None:
            model = self.clip.model
            sizes = ParentSizes(
                model.embed_dim,
                model.text_width,
                model.context,
                model.embeddings,
                clip=self.clip.source,
            )
        if self.codec is not None:
            sizes = sizes._replace(codes=self.codec.k, buckets=self.codec.buckets, pca=self.pca)
        return sizes


class Needs(NamedTuple):
    """Which of the frozen CLIP's encoders a training step runs."""

    image: bool = False
    text: bool = False


class Share(NamedTuple):
    """What one process has of a micro-batch."""

    batch: int  # samples
    world: int  # processes


class Given(NamedTuple):
    """What the frozen CLIP says of a batch, as far as the stage needs it."""

    z_i: Tensor | None = None  # [B, D]
    text: TextFeatures | None = None


def some_tokens(batch: int, length: int) -> Tensor:
    """Tokens ``[B, L]`` for a simulated step."""
    return torch.zeros(batch, length, dtype=torch.int64)


def some_timesteps(batch: int) -> Tensor:
    """Timesteps ``[B]`` for a simulated step."""
    return torch.zeros(batch, dtype=torch.int64)


def all_kept(batch: int, *length: int) -> Tensor:
    """A mask ``[B, ...]`` that keeps everything, for a simulated step."""
    return torch.ones(batch, *length, dtype=torch.bool)
