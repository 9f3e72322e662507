"""Embeddings as sequences of codes and back: what the autoregressive prior predicts.

unCLIP (arXiv 2204.06125), section 2.2: principal components by decreasing eigenvalue, each
quantized into buckets, after one code for the dot product z_i·z_t.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from unclip.embeddings.config import Embeddings
from unclip.embeddings.lengths import as_embeddings
from unclip.embeddings.moments import Moments
from unclip.embeddings.pca import Pca
from unclip.embeddings.quantizer import Quantizer, interpolate

QUANTILES = 1001


class CodecSummary(NamedTuple):
    """What a codec keeps of embeddings."""

    explained_variance: float  # share of the training variance in the kept components
    cosine_pca: float  # mean cosine of z and its reconstruction from the kept components
    cosine_codes: float  # mean cosine of z and decode(encode(z))
    mse_codes: float  # mean over samples and dimensions of (z - decode(encode(z)))²


@dataclass(frozen=True)
class Codec:
    """k codes in [0, N) for an embedding of D dimensions, and one for its dot product with z_t."""

    pca: Pca
    quantizer: Quantizer  # of the k projections
    dot_quantizer: Quantizer  # of z_i·z_t, one dimension
    dot_quantiles: Tensor  # [1001] evenly spaced quantiles, 0 to 1, of z_i·z_t in training
    embeddings: Embeddings | None = None  # that it is of

    @property
    def k(self) -> int:
        """Codes per embedding."""
        return self.pca.components.shape[0]

    @property
    def dim(self) -> int:
        """D of the embeddings."""
        return self.pca.components.shape[1]

    @property
    def buckets(self) -> int:
        """N: a code is in [0, N), that of the dot product too."""
        return self.quantizer.centers.shape[1]

    def encode(self, z_i: Tensor) -> Tensor:
        """Codes ``[B, k]`` of embeddings ``z_i`` ``[B, D]``."""
        return self.quantizer.encode(self.pca.project(z_i))

    def decode(self, codes: Tensor) -> Tensor:
        """Embeddings ``[B, D]``, float32, of ``codes`` ``[B, k]``."""
        z_i = self.pca.reconstruct(self.quantizer.decode(codes))
        return as_embeddings(z_i, self.embeddings).float()

    def encode_dot(self, dots: Tensor) -> Tensor:
        """Codes ``[B]`` of dot products z_i·z_t ``[B]``, of directions."""
        return self.dot_quantizer.encode(dots[..., None])[..., 0]

    def dot_at(self, u: Tensor, percentile: float) -> Tensor:
        """Dot products ``[B]`` at ``u`` ``[B]`` in [0, 1) of what lies above ``percentile``.

        A uniform ``u`` makes them draws from that part of the training distribution: 0 is all of
        it, 50 (the paper's best, section 2.2) the top half. Raises ValueError for a percentile not
        in [0, 100); what is in ``u`` is not looked at, which would wait for its device.
        """
        if not 0 <= percentile < 100:
            raise ValueError(f"percentile is {percentile}, expected 0 <= percentile < 100")
        u = u.to(self.dot_quantiles.dtype)
        levels = 1 - (1 - percentile / 100) * (1 - u)  # in this form never above 1
        return interpolate(self.dot_quantiles[None], levels)[0]

    def tensors(self) -> dict[str, Tensor]:
        """All of it under stable names, to be stored; `from_tensors` reads it."""
        return {
            "mean": self.pca.mean,
            "components": self.pca.components,
            "eigenvalues": self.pca.eigenvalues,
            "edges": self.quantizer.edges,
            "centers": self.quantizer.centers,
            "dot_edges": self.dot_quantizer.edges,
            "dot_centers": self.dot_quantizer.centers,
            "dot_quantiles": self.dot_quantiles,
        }

    @classmethod
    def from_tensors(
        cls, tensors: dict[str, Tensor], embeddings: Embeddings | None = None
    ) -> Codec:
        """The codec of `tensors`, for a kind of embeddings.

        Raises ValueError if one is missing or has another's shape.
        """
        t = tensors
        try:
            codec = cls(
                Pca(t["mean"], t["components"], t["eigenvalues"]),
                Quantizer(t["edges"], t["centers"]),
                Quantizer(t["dot_edges"], t["dot_centers"]),
                t["dot_quantiles"],
                embeddings,
            )
        except KeyError as error:
            raise ValueError(f"codec without the tensor {error}") from error
        if odd := [name for name in codec.tensors() if not t[name].is_floating_point()]:
            raise ValueError(f"{odd[0]} holds {t[odd[0]].dtype}, not floating-point numbers")
        dim, buckets = t["mean"].numel(), t["dot_centers"].numel()
        k = t["components"].numel() // max(dim, 1)
        expected = {
            "mean": (dim,),
            "components": (k, dim),
            "eigenvalues": (dim,),
            "edges": (k, buckets - 1),
            "centers": (k, buckets),
            "dot_edges": (1, buckets - 1),
            "dot_centers": (1, buckets),
            "dot_quantiles": (QUANTILES,),
        }
        for name, shape in expected.items():
            if t[name].shape != shape:
                raise ValueError(f"codec: {name} has shape {tuple(t[name].shape)}, not {shape}")
        return codec

    @classmethod
    def empty(cls, dim: int, k: int, buckets: int) -> Codec:
        """One of zeros, to be filled from stored tensors."""
        return cls(
            Pca(torch.zeros(dim), torch.zeros(k, dim), torch.zeros(dim)),
            Quantizer(torch.zeros(k, buckets - 1), torch.zeros(k, buckets)),
            Quantizer(torch.zeros(1, buckets - 1), torch.zeros(1, buckets)),
            torch.zeros(QUANTILES),
        )

    def to(self, device: torch.device | str) -> Codec:
        """The same on ``device``."""
        return Codec(
            self.pca.to(device),
            self.quantizer.to(device),
            self.dot_quantizer.to(device),
            self.dot_quantiles.to(device),
            self.embeddings,
        )

    def summary(self, z: Tensor) -> CodecSummary:
        """What is kept of embeddings ``z`` ``[n, D]``."""
        z = z.to(self.pca.mean.dtype)
        plain = self.pca.reconstruct(self.pca.project(z))
        coded = self.decode(self.encode(z)).to(z.dtype)
        return CodecSummary(
            explained_variance=1 - self.pca.lost_variance()[self.k].item(),
            cosine_pca=F.cosine_similarity(z, plain).mean().item(),
            cosine_codes=F.cosine_similarity(z, coded).mean().item(),
            mse_codes=F.mse_loss(coded, z).item(),
        )


def fit_codec(
    moments: Moments,
    z: Tensor,
    dots: Tensor,
    *,
    components: int | None = None,
    max_error: float | None = None,
    buckets: int,
    edges: str,
    embeddings: Embeddings | None = None,
) -> Codec:
    """The float32 codec of embeddings with ``moments``, of which ``z`` ``[n, D]`` are a sample.

    ``dots`` ``[n]`` are z_i·z_t of directions. Arguments and errors are those of `Pca.fit` and
    `Quantizer.fit`; both quantizers have the same ``buckets`` and ``edges``.
    """
    pca = Pca.fit(moments.mean, moments.covariance, components=components, max_error=max_error)
    pca = pca.to(dtype=torch.float32)
    values, column = pca.project(z.cpu()), dots.cpu().float()[:, None]
    levels = torch.linspace(0, 1, QUANTILES, dtype=torch.float64)
    return Codec(
        pca=pca,
        quantizer=Quantizer.fit(values, buckets=buckets, edges=edges),
        dot_quantizer=Quantizer.fit(column, buckets=buckets, edges=edges),
        dot_quantiles=interpolate(column.T.sort(dim=1).values, levels)[0],
        embeddings=embeddings,
    )
