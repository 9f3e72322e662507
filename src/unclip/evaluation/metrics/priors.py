"""Evaluates a prior: its metrics on held-out captions, its size and its cost."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from unclip.common import tables
from unclip.common.seeding import SampleNoise, derive_seed
from unclip.embeddings.clip import Clip
from unclip.embeddings.metrics import PriorMetrics, prior_metrics
from unclip.stages._prior.part import PriorPart


@dataclass(frozen=True)
class Evaluated:
    """A prior and what was measured."""

    name: str
    kind: str  # ar_prior | diffusion_prior
    parameters: int
    training_flops: float  # forward and backward, all steps
    milliseconds: float  # per sampled embedding
    metrics: dict[str, float]


def evaluate(
    part: PriorPart,
    clip: Clip,
    pairs: Iterable[tuple[list[str], Tensor, Tensor]],
    *,
    seed: int,
) -> tuple[PriorMetrics, float]:
    """Metrics, and seconds per sample, over batches of (captions, z_i ``[B, D]``, z_t).

    Sample k has the noise of (seed, k), whatever the batches.
    """
    found, true, texts = [], [], []
    seconds, done = 0.0, 0
    for captions, z_i, z_t in pairs:
        seeds = [derive_seed("evaluate", seed, done + k) for k in range(len(captions))]
        began = time.perf_counter()
        found.append(part.draw(clip, captions, SampleNoise(seeds)).cpu())
        seconds += time.perf_counter() - began
        done += len(captions)
        true.append(z_i.cpu())
        texts.append(z_t.cpu())
    metrics = prior_metrics(torch.cat(found), torch.cat(true), torch.cat(texts))
    return metrics, seconds / done


def training_flops(part: PriorPart, clip: Clip, *, samples: int) -> float:
    """Multiply-adds, counted as two, of training on ``samples``: three times the forward pass."""
    with (
        sdpa_kernel(SDPBackend.MATH),  # the counter knows matrix products
        FlopCounterMode(display=False) as counter,
    ):
        part.forward_once(clip)
    return 3.0 * counter.get_total_flops() * samples


ROWS = {
    "cosine": "cosine to the true z_i",
    "cosine_z_t": "cosine to z_t",
    "true_cosine_z_t": "cosine of the true z_i to z_t",
    "retrieval_rank": "rank of the true image, mean",
    "retrieval_top1": "true image first",
    "frechet": "Frechet distance",
    "variance_kept": "variance kept",
    "n": "held-out samples",
}


def _cells(rows: Sequence[Evaluated]) -> list[list[str]]:
    cells = [
        ["", *(r.name for r in rows)],
        ["kind", *(r.kind for r in rows)],
        ["parameters", *(f"{r.parameters:,}" for r in rows)],
        ["training FLOPs", *(f"{r.training_flops:.3g}" for r in rows)],
        ["ms per sample", *(f"{r.milliseconds:.3g}" for r in rows)],
    ]
    for key, title in ROWS.items():
        cells.append([title, *(f"{r.metrics[key]:.4g}" for r in rows)])
    return cells


def show(rows: Sequence[Evaluated]) -> None:
    """The table, a column per prior, on the terminal."""
    tables.show(_cells(rows))


def markdown(rows: Sequence[Evaluated]) -> str:
    """The same as a Markdown table."""
    return tables.markdown(_cells(rows))


def as_json(rows: Sequence[Evaluated]) -> str:
    """The same as a JSON list."""
    listed: list[dict[str, Any]] = [asdict(row) for row in rows]
    return json.dumps(listed, indent=2)
