"""One-pass statistics of embeddings: exact moments, and a uniform subset of the rows.

Both hold the same memory whatever the number of samples, and do not depend on the order of the
samples or on how they are split into batches and processes.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from unclip.common.devices import widened

EMPTY = torch.iinfo(torch.int64).max  # the priority of an empty slot: later than any row's


class Moments:
    """Running count, sum ``[D]`` and second moment ``[D, D]`` of embeddings: float64, on the CPU.

    The sums are raw, so ``mean`` and ``covariance`` are good to about 1e-16 of the squared values.
    """

    def __init__(self, dim: int):
        self.dim = dim
        self.count = 0
        self.sum = torch.zeros(dim, dtype=torch.float64)
        self.second = torch.zeros(dim, dim, dtype=torch.float64)

    def update(self, z: Tensor) -> None:
        """Add ``z`` ``[B, D]`` of any float dtype; the products are computed on its device.

        Raises ValueError if the shape is another or a value is NaN or infinite.
        """
        if z.ndim != 2 or z.shape[1] != self.dim:
            raise ValueError(f"embeddings of shape {tuple(z.shape)}, expected [B, {self.dim}]")
        if not z.isfinite().all():
            raise ValueError("embeddings contain NaN or inf")
        z = widened(z.detach())
        self.count += len(z)
        self.sum += z.sum(dim=0).cpu()
        self.second += (z.T @ z).cpu()

    def merge(self, other: Moments) -> None:
        """Add the samples of ``other``. Raises ValueError if it has another dimension."""
        if other.dim != self.dim:
            raise ValueError(f"moments of dimension {other.dim} and {self.dim} cannot be merged")
        self.count += other.count
        self.sum += other.sum
        self.second += other.second

    def all_reduce(self) -> None:
        """Replace the sums by those over all processes, if there are any: call it once, last."""
        if not _distributed():
            return
        count = torch.tensor([self.count], dtype=torch.float64)
        total = torch.cat([count, self.sum, self.second.flatten()])
        total = total.to("cuda" if dist.get_backend() == "nccl" else "cpu")
        dist.all_reduce(total)
        count, self.sum, second = total.cpu().split([1, self.dim, self.dim**2])
        self.count, self.second = int(count), second.reshape(self.dim, self.dim)

    @property
    def mean(self) -> Tensor:
        """``[D]``, float64. Raises ValueError before the first sample."""
        if self.count == 0:
            raise ValueError("no samples")
        return self.sum / self.count

    @property
    def covariance(self) -> Tensor:
        """``[D, D]``, float64, divided by the count. Raises ValueError before the first sample."""
        mean = self.mean
        return self.second / self.count - torch.outer(mean, mean)


class Reservoir:
    """A uniform random subset of at most ``size`` rows ``[C]``: float32, on the CPU.

    It keeps the rows whose sample numbers have the smallest hashes; a sample number seen twice
    counts once.
    """

    def __init__(self, size: int, dim: int):
        self.size = size
        self.dim = dim
        self._priorities = torch.full((size,), EMPTY)
        self._rows = torch.empty(size, dim)

    def update(self, numbers: Tensor, rows: Tensor) -> None:
        """Offer ``rows`` ``[B, C]`` of the samples ``numbers`` ``[B]``, int64, on any device.

        Raises ValueError if a shape is another or the numbers are not int64.
        """
        if rows.ndim != 2 or rows.shape[1] != self.dim or numbers.shape != rows.shape[:1]:
            shapes = f"{tuple(numbers.shape)} and {tuple(rows.shape)}"
            raise ValueError(f"numbers and rows of shape {shapes}, expected [B], [B, {self.dim}]")
        if numbers.dtype != torch.int64:
            raise ValueError(f"sample numbers are {numbers.dtype}, expected torch.int64")
        self._offer(splitmix64(numbers.cpu()), rows.detach())

    def merge(self, other: Reservoir) -> None:
        """Offer the rows of ``other``. Raises ValueError if it has another size or dimension."""
        if (other.size, other.dim) != (self.size, self.dim):
            raise ValueError("only reservoirs of one size and dimension can be merged")
        self._offer(other._priorities, other._rows)

    def gather(self) -> None:
        """Make this the reservoir of all processes' rows, in each of them, if there are any."""
        if not _distributed():
            return
        gathered: list = [None] * dist.get_world_size()
        dist.all_gather_object(gathered, (self._priorities, self._rows))
        for priorities, rows in gathered:
            self._offer(priorities, rows)

    @property
    def rows(self) -> Tensor:
        """The kept rows ``[n, C]``, n <= size, in the order of their priorities."""
        order = self._priorities.argsort()
        return self._rows[order[: int((self._priorities != EMPTY).sum())]]

    def _offer(self, priorities: Tensor, rows: Tensor) -> None:
        """Let rows with smaller priorities take the places of those with larger ones."""
        priorities, order = priorities.sort()
        new = torch.isin(priorities, self._priorities, invert=True)
        new[1:] &= priorities[1:] != priorities[:-1]
        priorities, order = priorities[new], order[new]
        both = torch.cat([self._priorities, priorities])
        kept = both.topk(self.size, largest=False).indices
        free = torch.ones(self.size, dtype=torch.bool)
        free[kept[kept < self.size]] = False
        taken = kept[kept >= self.size] - self.size
        self._priorities[free] = priorities[taken]
        self._rows[free] = rows[order[taken].to(rows.device)].to(self._rows)


def splitmix64(numbers: Tensor) -> Tensor:
    """A well-mixed permutation of int64, elementwise (Steele et al. 2014, doi 10.1145/2660193)."""
    x = numbers - 0x61C8864680B583EB  # + 0x9E3779B97F4A7C15 modulo 2^64
    x = (x ^ _shift(x, 30)) * -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9
    x = (x ^ _shift(x, 27)) * -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """``x >> bits`` as if ``x`` were unsigned."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized()
