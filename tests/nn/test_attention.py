"""Attention against the formula, its masks, and what happens where nothing may be seen."""

from __future__ import annotations

import math

import pytest
import torch

from unclip.nn.attention import SelfAttention, attend, join_heads, split_heads


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


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_the_formula_with_and_without_masks(causal, masked):
    q, k, v = qkv()
    allowed = torch.ones(2, 3, 5, 5, dtype=torch.bool)
    mask = None
    if masked:
        mask = torch.tensor([[1, 0, 1, 1, 0], [0, 0, 1, 0, 1]], dtype=torch.bool)[:, None, None]
        allowed = allowed & mask
    if causal:
        allowed = allowed.tril()
    torch.testing.assert_close(attend(q, k, v, mask, causal), by_hand(q, k, v, allowed))


def test_more_keys_than_queries_are_fine_unless_causal():
    q, k, v = qkv(queries=2, keys=6)
    allowed = torch.ones(2, 3, 2, 6, dtype=torch.bool)
    torch.testing.assert_close(attend(q, k, v), by_hand(q, k, v, allowed))
    with pytest.raises(ValueError, match="causal"):
        attend(q, k, v, causal=True)


def test_a_query_that_may_see_nothing_gives_zeros_and_finite_gradients():
    inputs = [x.requires_grad_() for x in qkv()]
    mask = torch.zeros(2, 1, 1, 5, dtype=torch.bool)
    mask[1] = True
    out = attend(*inputs, mask=mask)
    assert (out[0] == 0).all()
    out.sum().backward()
    for x in inputs:
        assert x.grad.isfinite().all()
        assert (x.grad[0] == 0).all()


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


@pytest.mark.parametrize("causal", [False, True])
def test_bfloat16_on_a_cpu_is_float32_rounded_at_the_end(causal):
    q, k, v = (x.bfloat16() for x in qkv())
    found = attend(q, k, v, causal=causal)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, attend(q.float(), k.float(), v.float(), causal=causal).bfloat16())
