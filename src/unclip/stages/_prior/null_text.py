"""What stands for a dropped text: nothing at all, or the empty caption."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from unclip.common.types import Caption
from unclip.embeddings.clip import Clip
from unclip.embeddings.tokens import Tokenizer
from unclip.stages._prior.sampling import ReadsCaptions, prior_caption


class NullText(NamedTuple):
    """The empty caption, embedded."""

    z_t: Tensor  # [1, D]
    caption: Caption  # of one row, with its mask


@torch.no_grad()
def null_text(net: ReadsCaptions, clip: Clip, tokenize: Tokenizer) -> NullText | None:
    """What ``net`` is told where a text is dropped; None: zeros and padding.

    ``tokenize`` is that of the prior's own tokens. With ``model.null_text: caption``, as Karlo and
    Kandinsky have it, it is "" through CLIP.
    """
    if net.config.null_text != "caption":
        return None
    tokens = clip.tokenize([""]).to(clip.mean.device)
    text = clip.encode_text(tokens)
    return NullText(text.z_t, prior_caption(net, text, tokenize([""]).to(tokens.device)))


def told(z_t: Tensor, caption: Caption, keep: Tensor, null: NullText | None) -> dict[str, Any]:
    """Arguments of a prior's network for texts that are dropped where ``keep`` ``[B]`` is False.

    Without ``null`` the network drops them itself.
    """
    if null is None:
        return {"z_t": z_t, "caption": caption, "keep": keep}

    def kept(x: Tensor | None, instead: Tensor | None) -> Tensor | None:
        if x is None or instead is None:
            return None
        chosen = keep.view(-1, *[1] * (x.ndim - 1))
        return torch.where(chosen, x, instead.to(x))

    parts = (kept(x, instead) for x, instead in zip(caption, null.caption))
    replaced = Caption(*parts)  # type: ignore[arg-type]  # the mask is there
    return {"z_t": kept(z_t, null.z_t), "caption": replaced, "keep": None}
