"""The learning-rate schedule and which parameters decay."""

from __future__ import annotations

import copy
import sys

import pytest
import torch
from torch import nn

from unclip.common.errors import UserError
from unclip.training import checkpoints
from unclip.training.config import OptimConfig
from unclip.training.muon import Muon, orthogonal
from unclip.training.optim import MuonAdamW, adamw, build_optimizer, lr_factor


def test_warm_up_is_linear_and_reaches_the_peak():
    config = OptimConfig(warmup_steps=10)
    assert [lr_factor(s, config, 100) for s in (0, 4, 9, 10, 99)] == pytest.approx(
        [0.1, 0.5, 1, 1, 1]
    )


def test_cosine_falls_to_zero():
    config = OptimConfig(schedule="cosine")
    assert lr_factor(50, config, 100) == pytest.approx(0.5)
    assert lr_factor(100, config, 100) == pytest.approx(0, abs=1e-9)


def test_only_matrices_decay_and_frozen_parameters_are_left_out():
    net = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2), nn.Linear(2, 2).requires_grad_(False))
    groups = adamw(net, OptimConfig(weight_decay=0.1)).param_groups
    decays = {group["weight_decay"]: [tuple(p.shape) for p in group["params"]] for group in groups}
    assert decays == {0.1: [(2, 3)], 0.0: [(2,), (2,), (2,)]}


class Small(nn.Module):
    """A linear layer, a kernel and vectors: every kind of parameter."""

    def __init__(self):
        super().__init__()
        self.kernel = nn.Conv2d(1, 4, 3)
        self.linear = nn.Linear(4, 6)

    def forward(self, x):
        return self.linear(self.kernel(x).mean((2, 3))).pow(2).sum()


def trained(net, optimizer, schedule, steps):
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        optimizer.zero_grad()
        net(torch.randn(2, 1, 8, 8, generator=generator)).backward()
        optimizer.step()
        schedule.step()


def made(config, state=None):
    torch.manual_seed(0)
    net = Small()
    optimizer = build_optimizer(net, config)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    if state is not None:
        for part, saved in zip((net, optimizer, schedule), state):
            part.load_state_dict(saved)
    return net, optimizer, schedule


def test_muon_takes_weights_and_adamw_the_rest():
    config = OptimConfig(name="muon", lr=0.1, eps=1e-8)
    net, optimizer, _ = made(config)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    net(torch.ones(2, 1, 8, 8)).backward()
    optimizer.step()
    moved = {name: (p - before[name]).detach() for name, p in net.named_parameters()}
    # AdamW's first step is lr in every number; Muon's has singular values around
    # 0.2 sqrt(max(rows, columns)) lr, those of its iteration being 0.7 to 1.2.
    for name in ("kernel.bias", "linear.bias"):
        assert moved[name].abs() == pytest.approx(torch.full_like(moved[name], 0.1), rel=1e-3)
    for name in ("kernel.weight", "linear.weight"):
        matrix = moved[name].flatten(1)
        largest = torch.linalg.svdvals(matrix)[0].item()
        assert 0.6 < largest / (0.2 * max(matrix.shape) ** 0.5 * 0.1) < 1.3


@pytest.mark.parametrize(
    ("trains", "groups"),
    [({"weight", "bias"}, 2), ({"weight"}, 1), ({"bias"}, 1)],
    ids=["both", "weight", "bias"],
)
def test_muon_needs_no_bias_and_adamw_no_matrix(trains, groups):
    """An adapter has matrices alone."""
    net = torch.nn.Linear(4, 3)
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name in trains)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    optimizer = build_optimizer(net, OptimConfig(name="muon", lr=0.1))
    net(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    moved = {name for name, p in net.named_parameters() if not torch.equal(p, before[name])}
    assert moved == trains
    assert len(optimizer.param_groups) == groups
    again = build_optimizer(net, OptimConfig(name="muon", lr=0.1))
    again.load_state_dict(optimizer.state_dict())
    again.step()


def test_muon_is_that_of_torch_on_matrices_and_on_kernels_as_matrices():
    generator = torch.Generator().manual_seed(0)
    shapes = [(6, 4), (4, 6), (6, 4), (5, 2, 3, 3), (8, 8)]
    own = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    flat = [torch.nn.Parameter(p.detach().clone().flatten(1)) for p in own]
    settings = {"lr": 0.1, "weight_decay": 0.2}
    ours = Muon(own, **settings)
    theirs = torch.optim.Muon(flat, adjust_lr_fn="match_rms_adamw", **settings)
    for _ in range(3):
        for p, q in zip(own, flat):
            p.grad = torch.randn(p.shape, generator=generator)
            q.grad = p.grad.flatten(1)
        ours.step()
        theirs.step()
    # bfloat16 has 8 bits: each number moves by about 0.02 to 0.06 a step, to within 1 % or so.
    for p, q in zip(own, flat):
        torch.testing.assert_close(p.flatten(1), q, rtol=0, atol=2e-3)


def test_an_orthogonal_step_keeps_directions_and_levels_singular_values():
    x = torch.randn(3, 6, 9, generator=torch.Generator().manual_seed(0))
    for given in (x, x.mT):
        found = orthogonal(given).float()
        u, _, vh = torch.linalg.svd(given, full_matrices=False)
        levels = (u.mT @ found @ vh.mT).diagonal(dim1=1, dim2=2)
        assert ((levels > 0.6) & (levels < 1.3)).all()
    assert (orthogonal(torch.zeros(1, 2, 2)) == 0).all()


def test_muon_resumes_to_the_same_bits():
    config = OptimConfig(name="muon", lr=0.05, weight_decay=0.1)
    whole = made(config)
    trained(*whole, 4)
    half = made(config)
    trained(*half, 2)
    again = made(config, copy.deepcopy([part.state_dict() for part in half]))
    assert isinstance(again[1], MuonAdamW)
    for part in (half, again):
        for step in (2, 3):
            generator = torch.Generator().manual_seed(step)
            part[1].zero_grad()
            part[0](torch.randn(2, 1, 8, 8, generator=generator)).backward()
            part[1].step()
            part[2].step()
    for a, b, c in zip(whole[0].parameters(), half[0].parameters(), again[0].parameters()):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


def stepped(net, optimizer, steps):
    for step in range(steps):
        x = torch.randn(16, 96, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        (net(x) - x.sin()).square().mean().backward()
        optimizer.step()
    return net


def test_8_bit_adam_keeps_small_moments_trains_and_resumes_with_the_same_bits(tmp_path):
    pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    config = OptimConfig(name="adamw8bit", lr=1e-2, weight_decay=0.1)
    first = nn.Linear(96, 96)
    nets = [copy.deepcopy(first) for _ in range(4)]
    optimizer = build_optimizer(nets[0], config)
    whole = stepped(stepped(nets[0], optimizer, 5), optimizer, 5)
    moments = optimizer.state[whole.weight]
    assert {moments[name].dtype for name in ("state1", "state2")} == {torch.uint8}
    optimizer = build_optimizer(nets[1], config)
    stepped(nets[1], optimizer, 5)
    checkpoints.write(tmp_path / "step_5", nets[1], optimizer, {})
    optimizer = build_optimizer(nets[2], config)
    checkpoints.read(tmp_path / "step_5", nets[2], optimizer)
    assert torch.equal(stepped(nets[2], optimizer, 5).weight, whole.weight)
    exact = stepped(nets[3], build_optimizer(nets[3], OptimConfig(lr=1e-2, weight_decay=0.1)), 5)
    moved = (nets[1].weight - first.weight).norm()
    assert (nets[1].weight - exact.weight).norm() < 0.2 * moved


def test_8_bit_adam_without_its_library_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(UserError, match=r"^optim\.name=adamw8bit: .*unclip\[bnb\]"):
        build_optimizer(nn.Linear(2, 2), OptimConfig(name="adamw8bit"))
