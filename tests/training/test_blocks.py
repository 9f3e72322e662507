"""Blocks that are recomputed give the same numbers and keep less."""

from __future__ import annotations

import copy
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from functorch.compile import aot_module_simplified, nop
from safetensors.torch import load_file
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from unclip.common.errors import UserError
from unclip.config.load import load_experiment
from unclip.nn.blocks import blocks_of
from unclip.nn.compilation import compile_blocks, missing_for_compilation
from unclip.nn.transformer import Transformer
from unclip.nn.unet import UNet
from unclip.runs.train import train
from unclip.stages.clip.config import ClipConfig
from unclip.stages.clip.network import build_clip
from unclip.training.blocks import checkpoint_blocks, offload_blocks
from unclip.training.config import TrainerConfig
from unclip.training.stage import Stage


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


def graphs_of(net, inputs, monkeypatch):
    """The graphs that compiling the blocks of ``net`` gives, forward passes of training alone."""
    found = []

    def backend(graph, examples):
        found.append(graph)
        return aot_module_simplified(graph, examples, fw_compiler=nop)

    torch._dynamo.reset()
    original = nn.Module.compile
    monkeypatch.setattr(
        nn.Module, "compile", lambda self, **kw: original(self, backend=backend, **kw)
    )
    compile_blocks(net, "blocks")
    net(*inputs).square().mean().backward()
    torch._dynamo.reset()
    return found


@pytest.mark.filterwarnings("ignore")  # dynamo's own
@pytest.mark.parametrize("how", ["none", "full", "selective"])
def test_blocks_that_are_recomputed_are_compiled(how, monkeypatch):
    net, inputs = transformer()
    checkpoint_blocks(net, how)
    assert len(graphs_of(net, inputs, monkeypatch)) >= 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # dynamo's own
def test_sizes_of_compiled_blocks_are_numbers(monkeypatch):
    """The blocks of a U-Net share their code and have many shapes."""
    net, inputs = unet()
    graphs = graphs_of(net, inputs, monkeypatch)
    assert len(graphs) > 3
    symbolic = [
        node
        for graph in graphs
        for node in graph.graph.nodes
        if isinstance(node.meta.get("example_value"), torch.SymInt)
    ]
    assert not symbolic
    assert not torch._dynamo.config.optimize_ddp  # DDP's buckets would cut blocks in two


def test_where_nothing_can_be_compiled_auto_compiles_nothing(monkeypatch, capsys):
    """A slim image has no C compiler for Triton's launchers."""

    def compile(*args, **kwargs):
        def fail(*args):
            raise RuntimeError("\nFailed to find C compiler. Please specify via CC\nmore")

        return fail

    stage = Stage(SimpleNamespace(averages=False, trainer=TrainerConfig()), nn.Linear(1, 1))
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    stage._trainer = SimpleNamespace(strategy=strategy, is_global_zero=True)
    monkeypatch.setattr(torch, "compile", compile)
    assert stage._compilation(gpu=True) == "none"
    line = "trainer.compile=auto: nothing is compiled, because it fails here: Failed to find C comp"
    assert capsys.readouterr().err.startswith(line)
    assert stage._compilation(gpu=False) == "none"
    stage.experiment.trainer.compile = "blocks"
    assert stage._compilation(gpu=True) == "blocks"  # what was asked for fails loudly


@pytest.mark.slow  # compiles
def test_a_machine_that_can_compile_says_so():
    assert missing_for_compilation(torch.device("cpu")) is None


@pytest.mark.parametrize("how", ["full", "selective"])
def test_a_clip_is_recomputed_on_a_cpu_in_bfloat16(minute_experiment, tmp_path, how):
    more = ["trainer.precision=bf16-mixed", f"trainer.activation_checkpointing={how}"]
    given = [*more, f"run.dir={tmp_path}", "trainer.max_steps=1"]
    assert train(load_experiment(str(minute_experiment("clip")), given)).summary["loss"] > 0
    assert torch.backends.cuda.flash_sdp_enabled()


@pytest.mark.parametrize("how", ["none", "full"])
@pytest.mark.parametrize("make", [transformer, unet])
def test_what_waits_elsewhere_comes_back_and_is_not_the_weights(make, how):
    torch.manual_seed(0)
    net, inputs = make()
    plain = copy.deepcopy(net)
    for each in (net, plain):
        checkpoint_blocks(each, how)
    kept = []
    offload_blocks(net, lambda x: kept.append(x) or x.clone(), lambda x: x)
    found, expected = (gradients_of(each, inputs) for each in (net, plain))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    blocks = blocks_of(net)
    own = {p.untyped_storage().data_ptr() for block in blocks for p in block.parameters()}
    assert len(kept) >= len(blocks)
    assert not own & {x.untyped_storage().data_ptr() for x in kept}


def gradients_of(net, inputs):
    torch.manual_seed(1)
    net(*inputs).square().mean().backward()
    return [p.grad for p in net.parameters() if p.grad is not None]


def test_a_run_that_offloads_activations_has_the_same_bits(cascade, minute_experiment, tmp_path):
    def run(name, *more):
        given = [f"run.dir={tmp_path / name}", "trainer.accumulate=2", "trainer.max_steps=2"]
        finished = train(load_experiment(str(minute_experiment("upsampler")), [*given, *more]))
        return load_file(finished.artifact / "weights.safetensors")

    plain, offloaded = run("plain"), run("offloaded", "trainer.activation_offload=true")
    assert all(torch.equal(plain[name], offloaded[name]) for name in plain)
    with pytest.raises(UserError, match=r"trainer\.compile='blocks': must be none with"):
        run("no", "trainer.activation_offload=true", "trainer.compile=blocks")
