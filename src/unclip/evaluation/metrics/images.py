"""Scores of generated images that need no reference: Inception score, CLIP score; and intervals."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

SPLITS = 10
Z95 = 1.959963984540054  # of a normal distribution, 95 % two-sided


class InceptionScore:
    """exp of the mean KL(p(y|x) ‖ p(y)) in each of some splits (arXiv 1606.03498).

    Sample k belongs to split k modulo ``splits``, so images in the order of their classes do not
    end up with a class a split. Holds sums alone, in float64.

    Args:
        classes: C.
        splits: 10 in the paper.
    """

    def __init__(self, classes: int, splits: int = SPLITS):
        self._sums = torch.zeros(splits, classes + 2, dtype=torch.float64)  # p, p·log p, count

    def update(self, numbers: Tensor, logits: Tensor) -> None:
        """Add ``logits`` ``[B, C]`` of the samples ``numbers`` ``[B]``."""
        logs = logits.double().log_softmax(1).cpu()
        p = logs.exp()
        rows = torch.cat([p, (p * logs).sum(1, keepdim=True), torch.ones(len(p), 1)], 1)
        self._sums.index_add_(0, numbers.cpu() % len(self._sums), rows.double())

    def all_reduce(self) -> None:
        """Replace the sums by those over all processes, if there are any: call it once, last."""
        if dist.is_available() and dist.is_initialized():
            sums = self._sums.to("cuda" if dist.get_backend() == "nccl" else "cpu")
            dist.all_reduce(sums)
            self._sums = sums.cpu()

    def scores(self) -> list[float]:
        """Of each split that has samples."""
        found = []
        for row in self._sums[self._sums[:, -1] > 0]:
            p, within = row[:-2] / row[-1], row[-2] / row[-1]
            found.append(torch.exp(within + torch.special.entr(p).sum()).item())
        return found


def clip_scores(z_i: Tensor, z_t: Tensor) -> Tensor:
    """100 · max(cos, 0) of each image and its caption ``[N]``, float64 (arXiv 2104.08718, w = 100).

    The paper's own scale is 2.5; torchmetrics' and most papers' is 100.
    """
    return 100 * F.cosine_similarity(z_i.double(), z_t.double(), dim=1).clamp(min=0)


def mean_interval(values: list[float]) -> tuple[float, float, float]:
    """Mean and 95 % interval, normal; NaN for the interval of one value."""
    x = torch.tensor(values, dtype=torch.float64)
    half = Z95 * (x.std() / len(x) ** 0.5).item() if len(x) > 1 else float("nan")
    return x.mean().item(), x.mean().item() - half, x.mean().item() + half


def wilson(share: float, n: int) -> tuple[float, float]:
    """95 % interval of a share of ``n`` (Wilson, JASA 22, 1927)."""
    middle = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * (share * (1 - share) / n + Z95**2 / (4 * n**2)) ** 0.5
    return middle - half, middle + half
