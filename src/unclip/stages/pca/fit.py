"""Fits the PCA codec to the image embeddings of a CLIP."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from data_modules.prior import PriorData
from unclip.common.errors import UserError
from unclip.embeddings.clip import FrozenClip
from unclip.embeddings.codec import fit_codec
from unclip.embeddings.lengths import dots
from unclip.embeddings.moments import Moments, Reservoir
from unclip.stages.pca import spectrum
from unclip.stages.pca.config import PcaConfig, PcaExperiment
from unclip.stages.pca.spectrum import FittedPca
from unclip.training.one_pass import embedded_batches


def fit_pca_codec(
    config: PcaConfig, clip: FrozenClip, data: PriorData, device: torch.device
) -> FittedPca:
    """One streaming pass over the training samples; every process gets the same result.

    Raises:
        UserError: no data, or embeddings that are not finite.
    """
    dim = clip.model.embed_dim
    moments, kept = Moments(dim), Reservoir(config.reservoir, dim + 1)
    for part in embedded_batches(clip.model, data, device=device, limit=config.samples):
        try:
            moments.update(part.z_i.cpu())
        except ValueError as error:
            keys = ", ".join(part.batch.keys[:3])
            raise UserError(
                f"clip={clip.source}: image embeddings of a batch ({keys}, ...): {error}"
            ) from None
        dot = dots(part.z_i, part.z_t, clip.model.embeddings)[:, None]
        kept.update(part.numbers, torch.cat([part.z_i, dot], dim=1).float().cpu())
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
            embeddings=clip.model.embeddings,
        )
    except ValueError as error:
        raise UserError(f"pca: {error}") from None
    summary = codec.summary(rows[:, :dim])
    return FittedPca(codec, codec.pca.lost_variance(), summary, int(moments.count))


class PcaFit(NamedTuple):
    """What a fit leaves behind."""

    weights: dict[str, Tensor]
    embed_dim: int
    summary: dict[str, Any]
    report: str  # lines for the terminal
    write_report: Callable[[Path], object]  # figures and tables, into a run's folder


def data_module(experiment: PcaExperiment, clip: FrozenClip) -> PriorData:
    """See `unclip.stages.row.Row`; nothing but embeddings is wanted of a batch."""
    return PriorData.of(experiment, clip, tokenize=None)


def fit(
    experiment: PcaExperiment, clip: FrozenClip, data: PriorData, device: torch.device
) -> PcaFit:
    """See `unclip.stages.row.Row`."""
    fitted = fit_pca_codec(experiment.pca, clip, data, device)
    summary = {**fitted.summary._asdict(), "components": fitted.codec.k, "samples": fitted.samples}
    return PcaFit(
        fitted.codec.tensors(),
        fitted.codec.dim,
        summary,
        spectrum.text(fitted),
        lambda folder: spectrum.write(folder, fitted),
    )
