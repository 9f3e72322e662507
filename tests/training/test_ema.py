"""The average of the weights is what its definition says, and counts optimizer steps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from unclip.training.config import EmaConfig
from unclip.training.ema import decay_at, update


def test_the_average_is_the_sum_of_the_geometric_series():
    net, ema = nn.Linear(3, 2), nn.Linear(3, 2)
    values = torch.randn(5, 2, 3)
    expected = ema.weight.detach().clone()
    for value in values:
        net.weight.data.copy_(value)
        update(ema, net, 0.75)
        expected = 0.75 * expected + 0.25 * value
    torch.testing.assert_close(ema.weight.detach(), expected)


def test_bfloat16_weights_are_averaged_in_float32():
    net, ema = nn.Linear(2, 2).bfloat16(), nn.Linear(2, 2)
    before = ema.weight.detach().clone()
    update(ema, net, 0.9999)
    assert ema.weight.dtype == torch.float32
    assert not torch.equal(ema.weight, before)


def test_buffers_are_copied_not_averaged():
    net, ema = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    net.num_batches_tracked.fill_(7)
    update(ema, net, 0.5)
    assert ema.num_batches_tracked == 7


def test_warm_up_forgets_faster_at_first_and_reaches_the_decay():
    config = EmaConfig(decay=0.99)
    assert decay_at(1, config) == pytest.approx(2 / 11)
    assert decay_at(10**6, config) == 0.99
    assert decay_at(1, EmaConfig(decay=0.99, warmup=False)) == 0.99
