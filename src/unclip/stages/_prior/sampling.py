"""What sampling from the two priors shares: captions in batches, and the best of several."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from unclip.common.types import Caption, TextFeatures
from unclip.embeddings.tokens import token_mask


class ReadsCaptions(Protocol):
    """A prior's network: ``config.caption`` says what it reads."""

    config: Any


def prior_caption(net: ReadsCaptions, text: TextFeatures, tokens: Tensor) -> Caption:
    """The caption as ``net`` reads it: its own tokens, or the frozen CLIP's token features."""
    if net.config.caption == "clip":
        return Caption(None, text.tokens, text.mask)
    return Caption(tokens, None, token_mask(tokens))


def repeat_each(caption: Caption, times: int) -> Caption:
    """Each caption of the batch ``times`` in a row."""
    return _map_tensors(caption, lambda x: x.repeat_interleave(times, dim=0))


def repeat_batch(caption: Caption, times: int = 2) -> Caption:
    """The batch ``times`` over."""
    return _map_tensors(caption, lambda x: torch.cat([x] * times))


def _map_tensors(caption: Caption, change: Callable[[Tensor], Tensor]) -> Caption:
    return Caption(*(None if x is None else change(x) for x in caption))  # type: ignore[arg-type]


def best_of(z_i: Tensor, z_t: Tensor, candidates: int) -> Tensor:
    """Of ``candidates`` successive rows of z_i ``[B·c, D]`` the one nearest to z_t ``[B, D]``.

    The second row of a caption is kept when its z_i · z_t is higher (paper, section 2.2); lengths
    do not count.
    """
    z_i = z_i.unflatten(0, (len(z_t), candidates))
    with torch.autocast(z_i.device.type, enabled=False):  # bfloat16 ties what is near
        best = torch.einsum("bcd,bd->bc", F.normalize(z_i, dim=-1), z_t.to(z_i)).argmax(dim=1)
    return z_i[torch.arange(len(z_t), device=z_i.device), best]
