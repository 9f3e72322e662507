"""Memory by part, against sums done by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from unclip.nn.transformer import Transformer
from unclip.planning.memory import Layout, Memory, Sizes, need, sizes_of
from unclip.planning.trace import Live, Trace
from unclip.training.config import OptimConfig

# 1000 weights: blocks of 300, 200 and 100, and 400 outside; a CLIP of 70 weights and 2 buffers.
SIZES = Sizes(
    trained=1000,
    frozen=0,
    weights=4000,
    gradients=4000,
    moments=8000,
    average=4000,
    averaged=True,
    climbs=False,
    blocks=[300, 100, 200],
    buffers=12,
    clip=70,
    clip_bytes=288,
)
TRACE = Trace(
    [
        Live(0, 0, 4000),  # gradients of the step before
        Live(5000, 600, 4000),  # the end of the forward pass
        Live(5000, 600, 0),
        Live(5500, 100, 800),  # the backward pass: more at a time, but fewer gradients
        Live(0, 0, 4000),
    ],
    flops=1,
)


def of(strategy, world, *, precision="bf16-mixed", offload=False, sizes=SIZES):
    layout = Layout(strategy, "none", offload)
    return need(layout, sizes, TRACE, world=world, precision=precision)


def test_alone():
    found = of("auto", 1)
    assert found.memory == Memory(
        weights=4012, gradients=4000, optimizer=8000, ema=4012, activations=5000, other=288 + 600
    )
    assert found.memory.total == 4012 + 4000 + 8000 + 4012 + 5000 + 888
    assert found.other == {"frozen CLIP": 288, "weights in 16 bits": 600}
    assert found.host == 2 * 4012 + 288  # as built: network, average and CLIP


def test_ddp_has_gradients_all_the_time():
    alone, shared = of("auto", 1), of("ddp", 8)
    assert shared.other == alone.other
    assert shared.memory == alone.memory._replace(activations=5000)  # none of them beside less


@pytest.mark.parametrize(("precision", "width"), [("bf16-mixed", 2), ("32", 4)])
def test_fsdp_has_a_share_and_gathers_the_root_and_two_blocks(precision, width):
    found = of("fsdp", 4, precision=precision)
    assert found.other == {
        "frozen CLIP": 288,
        "gathered weights": 4 * 400 + width * (300 + 200),  # the root in float32
        "a gradient being summed": 4 * 400,
    }
    assert found.memory == Memory(
        weights=1000 + 12,
        gradients=1000,
        optimizer=2000,
        ema=1000 + 12,
        activations=5500,
        other=288 + 1600 + width * 500 + 1600,
    )


def test_offloaded_states_are_in_the_machines_memory():
    here, there = of("fsdp", 4), of("fsdp", 4, offload=True)
    offloaded = 1000 + 1000 + 2000 + 1000
    assert here.memory.total - there.memory.total == offloaded
    assert here.host == 4012 + 288  # as built: the average is made of the shards
    assert there.host == offloaded  # which is more
    assert of("fsdp", 1, offload=True).host == 4 * offloaded
    assert there.memory[:4] == (12, 0, 0, 12)


def test_an_odd_number_of_weights_is_shared_by_rounding_up():
    assert of("fsdp", 3).memory.gradients == 4 * 334


def test_sam_gathers_everything():
    found = of("fsdp", 4, sizes=SIZES._replace(climbs=True)).other["gathered weights"]
    assert found == 4 * 400 + 2 * 600


def test_sizes_by_hand():
    class Experiment:
        averages = False
        optim = OptimConfig()

    width = 8
    each = 2 * 2 * width + 4 * width**2 + 4 * width + 8 * width**2 + 5 * width
    net = nn.ModuleDict(
        {
            "body": Transformer(width=width, layers=3, heads=2, causal=False),
            "out": nn.Linear(width, 5, bias=False),
        }
    )
    net.register_buffer("table", net["out"].weight.new_zeros(7))
    found = sizes_of(net, None, Experiment)
    assert found == Sizes(
        trained=3 * each + 40,
        frozen=0,
        weights=4 * (3 * each + 40),
        gradients=4 * (3 * each + 40),
        moments=8 * (3 * each + 40),
        average=0,
        averaged=False,
        climbs=False,
        blocks=[each] * 3,
        buffers=28,
        clip=0,
        clip_bytes=0,
    )
    assert found.root == 40
    Experiment.optim = OptimConfig(name="muon")
    linear = 3 * 12 * width**2 + 40
    assert sizes_of(net, None, Experiment).moments == found.moments - 4 * linear
    Experiment.optim = OptimConfig(name="adamw8bit")  # all of these are small but one
    net["out"] = nn.Linear(64, 100)
    found = sizes_of(net, None, Experiment)
    assert found.moments == 8 * (3 * each + 100) + 2 * (6400 + 4 * 25)
    net["out"].requires_grad_(False)
    net["body"].to(torch.bfloat16)
    found = sizes_of(net, None, Experiment)
    assert (found.trained, found.frozen) == (3 * each, 6500)
    assert found.gradients == 2 * 3 * each
    assert found.weights == 2 * 3 * each + 4 * 6500
