"""What is fitted to a decoder before it trains: how the embeddings that it takes are spread."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from data_modules.decoder import DecoderData
from unclip.embeddings.clip import FrozenClip
from unclip.embeddings.moments import Moments
from unclip.training.one_pass import embedded_batches

EACH = 10  # samples for each of the D numbers of an embedding
LEAST = 1e-3  # deviation of a component, of the largest: less is noise


def fit_whitening(
    nets: Iterable[Any],
    clip: FrozenClip,
    data: DecoderData,
    device: torch.device,
    *,
    power: float,
    text: bool,
) -> None:
    """Set ``z_mean`` and ``z_whitening`` of decoders by the first training embeddings.

    Args:
        nets: The network that trains, and its average.
        clip: Which embeds.
        data: The decoder's.
        device: Where the CLIP runs.
        power: p of `whitening`.
        text: Whether the decoder takes z_t in place of z_i.
    """
    moments = Moments(clip.model.embed_dim)
    few = embedded_batches(
        clip.model, data, device=device, limit=EACH * moments.dim, title="whitening"
    )
    for part in few:
        moments.update((part.z_t if text else part.z_i).cpu())
    moments.all_reduce()
    for net in nets:
        net.z_mean.copy_(moments.mean)
        net.z_whitening.copy_(whitening(moments.covariance, power))
    if device.type == "cuda":
        torch.cuda.empty_cache()


def whitening(covariance: Tensor, power: float) -> Tensor:
    """Cov^(-p/2) ``[D, D]`` for p = ``power``, scaled to a mean variance of 1; float64.

    Deviations below `LEAST` of the largest count as that, so that what hardly varies is not blown
    up to noise.
    """
    variances, axes = torch.linalg.eigh(covariance)
    deviations = variances.clamp(min=0).sqrt()
    factors = deviations.clamp(min=LEAST * deviations.max()) ** -power
    scale = (variances * factors**2).mean().rsqrt()
    return axes @ torch.diag(scale * factors) @ axes.T
