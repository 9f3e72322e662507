"""The priors' masks: none where causality is all there is, and otherwise one for all layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from unclip.common.types import Caption
from unclip.embeddings.codec import Codec
from unclip.nn.config import TextEncoderConfig
from unclip.stages.ar_prior.config import ArPriorConfig
from unclip.stages.ar_prior.network import ArPrior
from unclip.stages.diffusion_prior.config import DiffusionPriorConfig
from unclip.stages.diffusion_prior.network import DiffusionPrior

D, K, N, L, X = 8, 5, 4, 6, 12


class Booleans(TorchDispatchMode):
    """Counts the operators that make boolean tensors."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.count += isinstance(out, torch.Tensor) and out.dtype == torch.bool
        return out


def ar(caption: str, layers: int) -> tuple[torch.nn.Module, dict[str, Any]]:
    text = TextEncoderConfig(context=L, vocabulary=50, width=X, layers=1, heads=2)
    config = ArPriorConfig(
        caption=caption, context=K + 2, width=16, layers=layers, heads=2, text=text
    )
    net = ArPrior(config, Codec.empty(D, K, N), X)
    codes, dot = torch.zeros(2, K, dtype=torch.long), torch.zeros(2, dtype=torch.long)
    return net, {"codes": codes, "dot": dot, "z_t": torch.ones(2, D)}


def diffusion(caption: str, layers: int) -> tuple[torch.nn.Module, dict[str, Any]]:
    config = DiffusionPriorConfig(
        caption=caption, context=L, vocabulary=50, width=16, layers=layers, heads=2
    )
    given = {"x_t": torch.ones(2, D), "t": torch.tensor([5, 9]), "z_t": torch.ones(2, D)}
    return DiffusionPrior(config, D, X), given


def caption_of(kind: str) -> Caption:
    mask = torch.tensor([[True] * 4 + [False] * 2, [True] * 2 + [False] * 4])
    tokens, features = torch.ones(2, L, dtype=torch.long), torch.ones(2, L, X)
    return Caption(*((tokens, None) if kind == "bpe" else (None, features)), mask)


@pytest.mark.parametrize("prior", [ar, diffusion])
def test_attention_over_own_tokens_reaches_the_kernel_without_a_mask(prior, monkeypatch):
    """A GPU's flash kernel takes no mask; a lower right triangle must become a causal square."""
    real, seen = F.scaled_dot_product_attention, []

    def spy(q, k, v, attn_mask=None, is_causal=False):
        seen.append((attn_mask, is_causal, q.shape[-2] == k.shape[-2]))
        return real(q, k, v, attn_mask=attn_mask, is_causal=is_causal)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    net, given = prior("bpe", layers=3)
    net(**given, caption=caption_of("bpe"))
    assert [call for call in seen if call[1]] == [(None, True, True)] * 3
    assert all(mask is None for mask, *_ in seen)


@pytest.mark.parametrize("prior", [ar, diffusion])
@pytest.mark.parametrize("kind", ["bpe", "clip"])
def test_masks_are_made_once_for_all_layers(prior, kind):
    def booleans(layers: int) -> int:
        net, given = prior(kind, layers)
        with Booleans() as found:
            net(**given, caption=caption_of(kind))
        return found.count

    assert booleans(4) == booleans(1)
