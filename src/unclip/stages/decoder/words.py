"""Captions as a decoder's network reads them, and what stands for a dropped one."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from unclip.common.types import TextFeatures
from unclip.embeddings.clip import Clip
from unclip.embeddings.gpt2 import Gpt2Tokenizer, mask_of
from unclip.embeddings.tokens import Tokenizer
from unclip.stages.decoder.config import DecoderConfig


class Words(NamedTuple):
    """B captions."""

    tokens: Tensor  # [B, L] of the decoder's own tokenizer
    mask: Tensor  # [B, L] True = a real token
    text: TextFeatures | None = None  # by the frozen CLIP, with ``caption: clip``


def words(
    config: DecoderConfig, tokens: Tensor, clip_tokens: Tensor | None, clip: Clip | None
) -> Words:
    """Of own tokens ``[B, L]`` and, for a decoder whose captions CLIP reads, CLIP's ``[B, L']``."""
    text = None
    if config.caption == "clip":
        if clip is None or clip_tokens is None:
            raise ValueError("caption=clip needs the CLIP that reads captions")
        text = clip.encode_text(clip_tokens)
    return Words(tokens, mask_of(config, tokens), text)


def read(
    config: DecoderConfig,
    captions: list[str],
    tokenize: Tokenizer | Gpt2Tokenizer,
    clip: Clip | None,
    device: torch.device,
) -> Words:
    """Of texts; ``tokenize`` is the decoder's own, ``clip`` is on ``device``."""
    clip_tokens = None if clip is None else clip.tokenize(captions).to(device)
    return words(config, tokenize(captions).to(device), clip_tokens, clip)


@torch.no_grad()
def null_words(
    config: DecoderConfig,
    tokenize: Tokenizer | Gpt2Tokenizer,
    clip: Clip | None,
    device: torch.device,
) -> Words | None:
    """The empty caption, with ``null_text: caption`` (Karlo); else None: padding."""
    return read(config, [""], tokenize, clip, device) if config.null_text == "caption" else None


def told(given: Words, keep: Tensor | None, null: Words | None) -> dict[str, Any]:
    """Arguments of a decoder's network for captions dropped where ``keep`` ``[B]`` is False.

    Without ``null`` the network drops them itself.
    """
    if keep is not None and null is not None:
        text = None
        if given.text is not None and null.text is not None:
            pairs = zip(given.text, null.text)
            text = TextFeatures(*(_where(keep, x, instead) for x, instead in pairs))
        tokens, mask = (_where(keep, x, instead) for x, instead in zip(given[:2], null[:2]))
        given, keep = Words(tokens, mask, text), None
    return {**given._asdict(), "keep_text": keep}


def _where(keep: Tensor, x: Tensor, instead: Tensor) -> Tensor:
    return torch.where(keep.view(-1, *[1] * (x.ndim - 1)), x, instead.to(x))
