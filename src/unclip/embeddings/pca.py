"""Principal components of an embedding space, ordered by decreasing eigenvalue."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pca:
    """The first k principal components; everything is computed in their dtype, autocast or not."""

    mean: Tensor  # [D]
    components: Tensor  # [k, D], orthonormal rows
    eigenvalues: Tensor  # [D] all of them, decreasing, >= 0, float64; they stay on the CPU

    @classmethod
    def fit(
        cls,
        mean: Tensor,
        covariance: Tensor,
        *,
        components: int | None = None,
        max_error: float | None = None,
    ) -> Pca:
        """Fit to ``mean`` ``[D]`` and ``covariance`` ``[D, D]``, in float64 on the CPU.

        Keeps ``components`` (1 to D), or the fewest whose lost share of variance is less than
        ``max_error`` (more than 0, at most 1). Raises ValueError unless exactly one is given and
        in range, and the covariance is finite, not zero and of the mean's dimension.
        """
        mean, covariance = (x.to("cpu", torch.float64) for x in (mean, covariance))
        dim = len(mean)
        if covariance.shape != (dim, dim):
            raise ValueError(f"covariance of shape {tuple(covariance.shape)}, mean has {dim}")
        if not (mean.isfinite().all() and covariance.isfinite().all()):
            raise ValueError("mean or covariance contains NaN or inf")
        eigenvalues, vectors = torch.linalg.eigh(covariance)
        if eigenvalues[-1] <= 0:
            raise ValueError("covariance has no positive eigenvalue: are all samples the same?")
        rows = fix_signs(vectors.T.flip(0))
        whole = cls(mean, rows, eigenvalues.flip(0).clamp(min=0))
        return replace(whole, components=rows[: whole._count(components, max_error)].clone())

    def _count(self, components: int | None, max_error: float | None) -> int:
        if (components is None) == (max_error is None):
            raise ValueError("give exactly one of components and max_error")
        if max_error is not None:
            if not 0 < max_error <= 1:
                raise ValueError(f"max_error is {max_error}, expected 0 < max_error <= 1")
            return int((self.lost_variance() >= max_error).sum())
        assert components is not None
        if not 1 <= components <= len(self.mean):
            raise ValueError(f"{components} components of {len(self.mean)} dimensions")
        return components

    def lost_variance(self) -> Tensor:
        """Share of the variance that is lost with k = 0 ... D components: ``[D + 1]``, 1 to 0."""
        tail = self.eigenvalues.flip(0).cumsum(0).flip(0)
        return torch.cat([tail, tail.new_zeros(1)]) / tail[0]

    def project(self, z: Tensor) -> Tensor:
        """Coordinates ``[..., k]`` of ``z`` ``[..., D]``. Raises ValueError for another D."""
        if z.shape[-1:] != self.mean.shape:
            raise ValueError(f"embeddings of shape {tuple(z.shape)}, expected {len(self.mean)}")
        with torch.autocast(z.device.type, enabled=False):
            return (z.to(self.mean.dtype) - self.mean) @ self.components.T

    def reconstruct(self, y: Tensor) -> Tensor:
        """The point ``[..., D]``, not normalised, of coordinates ``y`` ``[..., k]``.

        Raises ValueError for another k.
        """
        if y.shape[-1:] != self.components.shape[:1]:
            count = len(self.components)
            raise ValueError(f"coordinates of shape {tuple(y.shape)}, expected [..., {count}]")
        with torch.autocast(y.device.type, enabled=False):
            return y.to(self.mean.dtype) @ self.components + self.mean

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Pca:
        """The same with mean and components on ``device`` and in ``dtype``, if given."""
        mean = self.mean.to(device=device, dtype=dtype)
        return replace(self, mean=mean, components=self.components.to(mean))


def fix_signs(vectors: Tensor) -> Tensor:
    """``vectors`` ``[k, D]``, each with the sign that makes its entry largest in size positive."""
    largest = vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True))
    return (vectors * largest.sign()).contiguous()
