"""What is fitted to data and not trained: PCA codecs, standardisation, Analytic-DPM's errors."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from data_modules.prior import PriorData
from unclip.common.errors import UserError
from unclip.embeddings.clip import FrozenClip
from unclip.embeddings.codec import Codec, CodecSummary, fit_codec
from unclip.embeddings.moments import Moments, Reservoir
from unclip.stages.pca.config import PcaConfig
from unclip.training.one_pass import embedded_batches


class FittedPca(NamedTuple):
    """A codec and how well it does."""

    codec: Codec
    lost: Tensor  # [D + 1]: share of variance lost with k = 0 ... D components
    summary: CodecSummary
    samples: int


def fit_pca_codec(
    config: PcaConfig, clip: FrozenClip, data: PriorData, device: torch.device
) -> FittedPca:
    """One streaming pass over the training samples; every process gets the same result.

    Raises:
        UserError: more components than the embedding has, no data, or embeddings that are not
            finite.
    """
    dim = clip.model.embed_dim
    if config.components is not None and config.components > dim:
        raise UserError(
            f"pca.components={config.components}: the CLIP {clip.source} has embeddings of {dim} "
            f"numbers; give at most {dim}"
        )
    moments, kept = Moments(dim), Reservoir(config.reservoir, dim + 1)
    for part in embedded_batches(clip.model, data, device=device, limit=config.samples):
        try:
            moments.update(part.z_i.cpu())
        except ValueError as error:
            keys = ", ".join(part.batch.keys[:3])
            raise UserError(
                f"clip={clip.source}: image embeddings of a batch ({keys}, ...): {error}"
            ) from None
        dots = (part.z_i * part.z_t).sum(dim=1, keepdim=True)
        kept.update(part.numbers, torch.cat([part.z_i, dots], dim=1).float().cpu())
    moments.all_reduce()
    kept.gather()
    rows = kept.rows
    try:
        codec = fit_codec(
            moments,
            rows[:, :dim],
            rows[:, dim],
            components=config.components,
            max_error=config.max_error,
            buckets=config.buckets,
            edges=config.edges,
        )
    except ValueError as error:
        raise UserError(f"pca: {error}") from None
    summary = codec.summary(rows[:, :dim])
    return FittedPca(codec, codec.pca.lost_variance(), summary, int(moments.count))
