"""What `unit` and `raw` embeddings are: every place where lengths matter asks here.

CLIP compares directions alone. Embeddings are `unit` (length 1) or `raw` (with the length of CLIP's
projection), by the ``model.embeddings`` of the stage that makes or takes them; None, of a CLIP of
which nobody has said it, is `unit`. Of unit embeddings every function here keeps the bits.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from unclip.embeddings.config import RAW, Embeddings

_ROUNDING = 1e-6  # of a length that float32 takes for 1


def as_embeddings(z: Tensor, kind: Embeddings | None) -> Tensor:
    """Vectors ``[..., D]`` of any length, such as CLIP's projections, as embeddings of ``kind``."""
    return z if kind == RAW else F.normalize(z, dim=-1)


def directions(z: Tensor, kind: Embeddings | None) -> Tensor:
    """Embeddings ``[..., D]`` of ``kind`` without their lengths: what CLIP compares."""
    return F.normalize(z, dim=-1) if kind == RAW else z


def with_lengths(direction: Tensor, like: Tensor, kind: Embeddings | None) -> Tensor:
    """Unit vectors ``[..., D]`` as embeddings of ``kind`` as long as ``like`` ``[..., D]``."""
    return direction * like.norm(dim=-1, keepdim=True) if kind == RAW else direction


def dots(z_i: Tensor, z_t: Tensor, kind: Embeddings | None) -> Tensor:
    """z_i·z_t ``[B]`` of the directions of ``[B, D]`` and ``[B, D]``."""
    return (directions(z_i, kind) * directions(z_t, kind)).sum(dim=1)


def stored(z: Tensor, kind: Embeddings | None) -> Tensor:
    """Embeddings ``[B, D]`` of ``kind`` from a file, in float32.

    Unit ones are brought back to that length, which float16 has rounded; what has it keeps its
    bits.
    """
    z = z.float()
    if kind == RAW:
        return z
    norm = z.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    return torch.where((norm - 1).abs() < _ROUNDING, z, z / norm)
