"""Blocks that are recomputed give the same numbers and keep less."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from unclip.config.load import load_experiment
from unclip.nn.transformer import Transformer
from unclip.nn.unet import UNet
from unclip.runs.train import train
from unclip.stages.clip.config import ClipConfig
from unclip.stages.clip.network import build_clip
from unclip.training.blocks import blocks_of, checkpoint_blocks, compile_blocks


def transformer():
    net = Transformer(width=32, layers=3, heads=2, causal=True, dropout=0.1)
    return net, (torch.randn(2, 24, 32),)


def unet():
    net = UNet(
        in_channels=3, out_channels=3, channels=32, blocks=1, multiples=[1, 2],
        attention_levels=[1], dropout=0.1,
    )  # fmt: skip
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)  # its last layers start at zero
    return net, (torch.randn(2, 3, 16, 16), torch.tensor([3, 700]))


class Calls(TorchDispatchMode):
    """Counts the operations of a step by name."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.counts[func._schema.name] += 1
        return func(*args, **kwargs or {})


def step(net, inputs):
    """Gradients of one step, and its operations."""
    torch.manual_seed(5)  # dropout
    with Calls() as calls:
        net(*inputs).square().mean().backward()
    return [p.grad for p in net.parameters() if p.grad is not None], calls.counts


def kept_bytes(net, inputs):
    """What autograd holds between the passes, weights left out."""
    held = {}

    def pack(tensor):
        held[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        out = net(*inputs)
        for parameter in net.parameters():
            held.pop(parameter.untyped_storage()._cdata, None)
    del out
    return sum(held.values())


@pytest.mark.parametrize(
    ("build", "product", "cheap"),
    [(transformer, "aten::addmm", "aten::gelu"), (unet, "aten::convolution", "aten::silu")],
)
def test_recomputed_blocks_give_the_same_gradients(build, product, cheap):
    torch.manual_seed(0)
    net, inputs = build()
    gradients, calls = {}, {}
    for how in ("none", "selective", "full"):
        twin = copy.deepcopy(net)
        checkpoint_blocks(twin, how)
        assert twin.state_dict().keys() == net.state_dict().keys()
        gradients[how], calls[how] = step(twin, inputs)
    for how in ("selective", "full"):
        for expected, gradient in zip(gradients["none"], gradients[how], strict=True):
            assert torch.equal(expected, gradient)
        assert calls[how][cheap] > calls["none"][cheap]
    assert calls["selective"][product] == calls["none"][product] < calls["full"][product]


@pytest.mark.parametrize("build", [transformer, unet])
def test_recomputed_blocks_keep_little(build):
    net, inputs = build()
    before = kept_bytes(net, inputs)
    checkpoint_blocks(net, "full")
    assert kept_bytes(net, inputs) < 0.4 * before


def test_every_network_is_made_of_blocks():
    assert len(blocks_of(transformer()[0])) == 3
    assert len(blocks_of(unet()[0])) == 3 + 2 + 4  # down, middle, up
    small = {"embed_dim": 16, "image_size": 32, "text_width": 32, "text_layers": 2, "text_heads": 2}
    vit = ClipConfig(**small, patch_size=8, vision_width=32, vision_layers=3, vision_head_width=16)
    assert len(blocks_of(build_clip(vit))) == 3 + 2


@pytest.mark.slow  # compiles
@pytest.mark.parametrize("how", ["blocks", "model"])
@pytest.mark.parametrize("build", [transformer, unet])
def test_a_compiled_network_computes_the_same(build, how):
    torch.manual_seed(0)
    net, inputs = build()
    net.eval()
    twin = copy.deepcopy(net)
    compile_blocks(twin, how)
    assert twin.state_dict().keys() == net.state_dict().keys()
    torch.testing.assert_close(twin(*inputs), net(*inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("how", ["full", "selective"])
def test_a_clip_is_recomputed_on_a_cpu_in_bfloat16(minute_experiment, tmp_path, how):
    more = ["trainer.precision=bf16-mixed", f"trainer.activation_checkpointing={how}"]
    given = [*more, f"run.dir={tmp_path}", "trainer.max_steps=1"]
    assert train(load_experiment(str(minute_experiment("clip")), given)).summary["loss"] > 0
    assert torch.backends.cuda.flash_sdp_enabled()
