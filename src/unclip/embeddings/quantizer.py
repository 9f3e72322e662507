"""Scalar quantization: each dimension on its own, into the same number of buckets."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unclip.common.devices import widest


@dataclass(frozen=True)
class Quantizer:
    """Buckets of k dimensions. Bucket 0 is open below, bucket N - 1 above.

    Where the data had no ties, ``encode(decode(codes))`` is ``codes``.
    """

    edges: Tensor  # [k, N - 1], increasing
    centers: Tensor  # [k, N], what a code decodes to

    @classmethod
    def fit(cls, values: Tensor, *, buckets: int, edges: str) -> Quantizer:
        """Fit N = ``buckets`` (at least 2) to ``values`` ``[n, k]``, whose dtype is kept.

        ``edges`` is ``uniform``: equal widths between minimum and maximum, decoded to midpoints; or
        ``quantile``: at quantiles j / N, decoded to quantiles (j + 0.5) / N. (The paper, arXiv
        2204.06125, does not say which it used.) Raises ValueError for no or non-finite values.
        """
        if values.ndim != 2 or values.numel() == 0:
            raise ValueError(f"values of shape {tuple(values.shape)}, expected some [n, k]")
        if not values.isfinite().all():
            raise ValueError("values contain NaN or inf")
        if buckets < 2:
            raise ValueError(f"{buckets} buckets, at least 2 are needed")
        if edges == "uniform":
            table = torch.stack([values.amin(dim=0), values.amax(dim=0)], dim=1)
        elif edges == "quantile":
            table = values.T.contiguous().sort(dim=1).values  # torch.quantile stops at 16M elements
        else:
            raise ValueError(f"edges {edges!r} is none of uniform, quantile")
        wide = widest(values.device)
        halves = torch.arange(1, 2 * buckets, dtype=wide, device=values.device)
        points = interpolate(table, halves / (2 * buckets))  # center, edge, center, ... center
        return cls(points[:, 1::2].contiguous(), points[:, ::2].contiguous())

    def encode(self, values: Tensor) -> Tensor:
        """Codes ``[..., k]`` int64 in [0, N): how many edges are at or below each value.

        Raises ValueError if the last dimension is not k.
        """
        self._check_last(values)
        columns = values.to(self.edges.dtype).movedim(-1, 0)  # [k, ...]
        flat = columns.reshape(len(columns), -1).contiguous()
        codes = torch.searchsorted(self.edges, flat, right=True)
        return codes.reshape(columns.shape).movedim(0, -1)

    def decode(self, codes: Tensor) -> Tensor:
        """The centers ``[..., k]`` of int64 ``codes`` ``[..., k]``.

        Raises ValueError if the last dimension is not k or a code is not in [0, N).
        """
        self._check_last(codes)
        buckets = self.centers.shape[1]
        wrong = codes[(codes < 0) | (codes >= buckets)]
        if len(wrong):
            raise ValueError(f"code {int(wrong[0])} is outside [0, {buckets})")
        return self.centers[torch.arange(len(self.centers), device=codes.device), codes]

    def to(self, device: torch.device | str) -> Quantizer:
        """The same on ``device``."""
        return Quantizer(self.edges.to(device), self.centers.to(device))

    def _check_last(self, x: Tensor) -> None:
        if x.shape[-1:] != self.centers.shape[:1]:
            raise ValueError(f"shape {tuple(x.shape)}, expected [..., {len(self.centers)}]")


def interpolate(table: Tensor, levels: Tensor) -> Tensor:
    """Values ``[k, m]`` of ``table`` ``[k, n]`` at ``levels`` ``[m]``: 0 its start, 1 its end.

    Linear between columns, so of a sorted sample these are quantiles. Computed in the precision of
    ``levels``, returned in that of ``table``.
    """
    position = levels * (table.shape[1] - 1)
    low, high = position.floor(), position.ceil()
    start, end = (table[:, x.long()].to(levels.dtype) for x in (low, high))
    return (start + (position - low) * (end - start)).to(table.dtype)
