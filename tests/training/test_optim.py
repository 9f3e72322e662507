"""The learning-rate schedule and which parameters decay."""

from __future__ import annotations

import pytest
from torch import nn

from unclip.training.configs import OptimConfig
from unclip.training.optim import adamw, rate


def test_warm_up_is_linear_and_reaches_the_peak():
    config = OptimConfig(warmup_steps=10)
    assert [rate(s, config, 100) for s in (0, 4, 9, 10, 99)] == pytest.approx([0.1, 0.5, 1, 1, 1])


def test_cosine_falls_to_zero():
    config = OptimConfig(schedule="cosine")
    assert rate(50, config, 100) == pytest.approx(0.5)
    assert rate(100, config, 100) == pytest.approx(0, abs=1e-9)


def test_only_matrices_decay_and_frozen_parameters_are_left_out():
    net = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2), nn.Linear(2, 2).requires_grad_(False))
    groups = adamw([net], OptimConfig(weight_decay=0.1)).param_groups
    decays = {group["weight_decay"]: [tuple(p.shape) for p in group["params"]] for group in groups}
    assert decays == {0.1: [(2, 3)], 0.0: [(2,), (2,), (2,)]}
