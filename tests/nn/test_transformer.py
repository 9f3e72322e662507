"""The transformer: who sees whom, and how it starts."""

from __future__ import annotations

import pytest
import torch

from unclip.nn.transformer import Transformer


def small(causal: bool, **kwargs) -> Transformer:
    torch.manual_seed(0)
    return Transformer(width=16, layers=2, heads=2, causal=causal, **kwargs).eval()


@pytest.mark.parametrize("with_mask", [False, True])
def test_in_a_causal_transformer_a_change_moves_no_earlier_output(with_mask):
    net, x = small(causal=True), torch.randn(2, 6, 16)
    mask = torch.ones(2, 1, 1, 6, dtype=torch.bool) if with_mask else None
    before = net(x, mask)
    for k in range(6):
        changed = x.clone()
        changed[:, k] += 1
        after = net(changed, mask)
        assert torch.equal(after[:, :k], before[:, :k])
        assert (after[:, k:] != before[:, k:]).any(dim=-1).all()


def test_in_a_bidirectional_transformer_a_change_moves_every_output():
    net, x = small(causal=False), torch.randn(2, 6, 16)
    changed = x.clone()
    changed[:, 5] += 1
    assert (net(changed) != net(x)).any(dim=-1).all()


@pytest.mark.parametrize("causal", [False, True])
def test_a_masked_position_reaches_no_other(causal):
    net, x = small(causal), torch.randn(1, 6, 16)
    mask = torch.tensor([1, 1, 0, 1, 0, 1], dtype=torch.bool)
    changed = torch.where(mask[:, None], x, 7.0)
    keys = mask[None, None, None]
    assert torch.equal(net(changed, keys)[:, mask], net(x, keys)[:, mask])


@pytest.mark.parametrize("causal", [False, True])
def test_a_position_that_may_see_nothing_sees_itself_alone(causal):
    net, x = small(causal), torch.randn(1, 4, 16)
    found = net(x, torch.zeros(1, 1, 1, 4, dtype=torch.bool))
    alone = [net(x[:, k : k + 1]) for k in range(4)]
    torch.testing.assert_close(found, torch.cat(alone, dim=1))


def test_dropout_acts_in_training_only():
    net, x = small(causal=True, dropout=0.5), torch.randn(1, 4, 16)
    assert torch.equal(net(x), net(x))
    net.train()
    assert not torch.equal(net(x), net(x))


def test_branches_into_the_residual_stream_start_smaller_by_the_root_of_twice_the_depth():
    torch.manual_seed(0)
    net = Transformer(width=256, layers=8, heads=4, causal=True)
    stream = torch.stack([b.attention.out.weight for b in net.blocks])
    inside = torch.stack([b.attention.qkv.weight for b in net.blocks])
    assert inside.std().item() == pytest.approx(256**-0.5, rel=0.01)
    assert stream.std().item() == pytest.approx(256**-0.5 / 4, rel=0.01)
