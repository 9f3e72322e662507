"""What both priors' stages share: the frozen CLIP's view of a batch, and how samples are judged."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from unclip.embeddings.metrics import prior_metrics
from unclip.figures import to_uint8
from unclip.models.clip import Clip, token_mask
from unclip.training.stage import Look, Picture
from unclip.types import Caption, PriorBatch


class Pair(NamedTuple):
    """What the frozen CLIP says of a batch."""

    z_i: Tensor  # [B, D]
    z_t: Tensor  # [B, D]
    caption: Caption


@torch.no_grad()
def encode(clip: Clip, batch: PriorBatch, *, features: bool) -> Pair:
    """The batch as ``clip`` sees it; the caption as CLIP's token features or as own tokens."""
    text = clip.encode_text(batch.clip_tokens)
    if features:
        caption = Caption(None, text.tokens, text.mask)
    else:
        caption = Caption(batch.tokens, None, token_mask(batch.tokens))
    return Pair(clip.encode_image(batch.clip_image), text.z_t, caption)


def judge(found: Tensor, pair: Pair, batch: PriorBatch) -> Look:
    """Metrics of sampled embeddings ``[B, D]``, and the picture nearest to each of the first 16."""
    metrics = prior_metrics(found, pair.z_i, pair.z_t)._asdict() if len(found) > 1 else {}
    similar = found @ pair.z_i.T
    cosine = (found * pair.z_i).sum(dim=1)
    pictures = [
        Picture(to_uint8(batch.clip_image[best]), f"{caption} ({cosine[k]:.2f})")
        for k, (best, caption) in enumerate(zip(similar.argmax(dim=1).tolist(), batch.captions))
    ]
    return Look(pictures[:16], metrics)
