"""Attention against the formula, and its masks."""

from __future__ import annotations

import math

import pytest
import torch

from unclip.nn.attention import SelfAttention, attend, backend, join_heads, split_heads


def qkv(queries: int = 5, keys: int = 5):
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 3, queries, 4), (2, 3, keys, 4), (2, 3, keys, 4)]
    return [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]


def by_hand(q, k, v, allowed):
    """The formula, one query at a time, over the keys it may see."""
    out = torch.zeros(*q.shape[:-1], v.shape[-1], dtype=q.dtype)
    for index in torch.cartesian_prod(*(torch.arange(n) for n in q.shape[:-1])).tolist():
        b, n, i = index
        seen = allowed[b, n, i].nonzero()[:, 0]
        if len(seen):
            weights = (k[b, n, seen] @ q[b, n, i] / math.sqrt(q.shape[-1])).softmax(0)
            out[b, n, i] = weights @ v[b, n, seen]
    return out


@pytest.mark.parametrize("keys", [5, 8])
def test_attention_is_the_formula_with_and_without_masks(keys):
    q, k, v = qkv(keys=keys)
    allowed = torch.ones(2, 3, 5, keys, dtype=torch.bool)
    torch.testing.assert_close(attend(q, k, v), by_hand(q, k, v, allowed))
    mask = torch.rand(2, 1, 5, keys, generator=torch.Generator().manual_seed(0)) < 0.5
    mask[..., 0] = True
    torch.testing.assert_close(attend(q, k, v, mask), by_hand(q, k, v, allowed & mask))


@pytest.mark.parametrize("keys", [5, 6, 9])
@pytest.mark.parametrize("name", ["sdpa", "math"])
def test_causal_queries_are_the_last_positions_and_see_none_after_their_own(keys, name):
    q, k, v = (x.requires_grad_() for x in qkv(keys=keys))
    allowed = torch.ones(2, 3, 5, keys, dtype=torch.bool).tril(keys - 5)
    with backend(name):
        found = attend(q, k, v, causal=True)
    expected = by_hand(q, k, v, allowed)
    torch.testing.assert_close(found, expected)
    weights = torch.randn(found.shape, dtype=found.dtype)
    grads = [torch.autograd.grad((x * weights).sum(), (q, k, v)) for x in (found, expected)]
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-6)


def test_causal_attention_takes_no_mask_and_no_more_queries_than_keys():
    q, k, v = qkv(queries=6, keys=5)
    with pytest.raises(ValueError, match="causal"):
        attend(q, k, v, causal=True)
    q, k, v = qkv()
    with pytest.raises(ValueError, match="causal"):
        attend(q, k, v, torch.ones(5, 5, dtype=torch.bool), causal=True)


def test_heads_split_into_parts_then_heads_and_join_again():
    x = torch.arange(2 * 12).view(1, 2, 12)
    first, second = split_heads(x, 2, 3)
    assert first.shape == (1, 3, 2, 2)
    assert first[0, 0, 0].tolist() == [0, 1]
    assert first[0, 1, 0].tolist() == [2, 3]
    assert second[0, 0, 0].tolist() == [6, 7]
    assert torch.equal(join_heads(second), x[:, :, 6:])


def test_self_attention_equals_torchs_own_with_the_same_weights():
    ours = SelfAttention(8, 2)
    theirs = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    theirs.in_proj_weight.data.copy_(ours.qkv.weight)
    theirs.in_proj_bias.data.copy_(ours.qkv.bias)
    theirs.out_proj.load_state_dict(ours.out.state_dict())
    x = torch.randn(3, 5, 8)
    torch.testing.assert_close(ours(x), theirs(x, x, x, need_weights=False)[0])


@pytest.mark.parametrize("autocast", [False, True])  # which casts what a kernel is given
@pytest.mark.parametrize("causal", [False, True])
def test_bfloat16_on_a_cpu_is_float32_rounded_at_the_end(causal, autocast):
    q, k, v = (x.bfloat16() for x in qkv())
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = attend(q, k, v, causal=causal)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, attend(q.float(), k.float(), v.float(), causal=causal).bfloat16())
