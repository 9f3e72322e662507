"""Large maps are computed in chunks, with the result of the whole map."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from unclip.common.adapters import AdapterConfig
from unclip.config.load import load_experiment
from unclip.nn import chunked_convolution
from unclip.nn.resblock import ResBlock
from unclip.nn.unet import UNet
from unclip.stages.experiment import ParentSizes
from unclip.stages.registry import STAGES
from unclip.training.adapters import inject


def awake(net: nn.Module) -> nn.Module:
    """Random parameters throughout, also where they start at zero or one."""
    generator = torch.Generator().manual_seed(0)
    for parameter in net.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    return net.eval().requires_grad_(False)


class Largest(TorchDispatchMode):
    """Notes the most numbers that any operation returned."""

    def __init__(self):
        super().__init__()
        self.numbers: list[int] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and not func.is_view:
            self.numbers.append(out.numel())
        return out


@pytest.mark.parametrize(
    ("resample", "out_channels"), [(None, 16), (None, 32), ("down", 32), ("up", 32)]
)
@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("kind", ["scale_shift", "additive"])
@torch.no_grad()
def test_a_block_forward_in_chunks_is_the_block(resample, out_channels, beside, kind, monkeypatch):
    torch.manual_seed(1)
    width = 48 if beside else 32
    shape = dict(time_width=8, dropout=0.1, groups=8, resample=resample, time=kind)
    block = awake(ResBlock(width, out_channels, **shape))
    # A mean far from zero and rows unlike each other: statistics of one chunk would be wrong.
    x = torch.randn(2, 32, 24, 20) * torch.linspace(0.1, 3, 24)[:, None] + 5
    more = torch.randn(2, 16, 24, 20) if beside else None
    time = torch.randn(2, 8)
    whole = block(x, time, more)
    monkeypatch.setattr(chunked_convolution, "ELEMENTS", 3000)
    assert chunked_convolution.needs_chunks(x)
    torch.testing.assert_close(block(x, time, more), whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(32, 32), (40, 24), (56, 8)])
@torch.no_grad()
def test_a_network_forward_in_chunks_is_the_network(shape, monkeypatch):
    net = awake(
        UNet(in_channels=6, out_channels=6, channels=16, blocks=2, multiples=[1, 2, 3], groups=8)
    )
    torch.manual_seed(1)
    x, t = torch.randn(2, 6, *shape), torch.tensor([3, 700])
    whole = net(x, t)
    monkeypatch.setattr(chunked_convolution, "ELEMENTS", 500)
    torch.testing.assert_close(net(x, t), whole, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_network_with_an_adapter_goes_over_whole_maps(monkeypatch):
    """The weights of its layers alone are not what they compute."""
    net = awake(UNet(in_channels=3, out_channels=3, channels=16, blocks=1, multiples=[1], groups=8))
    inject(net, AdapterConfig(kind="lora", rank=2, targets=["*"]))
    for name, parameter in net.named_parameters():
        if "lora_B" in name:
            parameter.normal_()
    torch.manual_seed(1)
    x, t = torch.randn(2, 3, 32, 32), torch.tensor([3, 700])
    whole = net(x, t)
    monkeypatch.setattr(chunked_convolution, "ELEMENTS", 500)
    torch.testing.assert_close(net(x, t), whole, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_temporaries_are_of_a_chunk(monkeypatch):
    block = awake(ResBlock(48, 16, time_width=8, dropout=0.0, groups=8))
    x, more, time = torch.randn(1, 32, 64, 64), torch.randn(1, 16, 64, 64), torch.randn(1, 8)
    with Largest() as whole:
        block(x, time, more)
    monkeypatch.setattr(chunked_convolution, "ELEMENTS", 48 * 64 * 4)
    with Largest() as cut:
        block(x, time, more)
    assert max(whole.numbers) == 48 * 64 * 64
    # The two results of its convolutions are whole; all else is of 4 rows, 2 of their neighbours
    # and the padding.
    large = [n for n in cut.numbers if n > 48 * 66 * 6]
    assert large == [16 * 64 * 64] * 2


def test_nothing_is_cut_while_gradients_are_recorded(monkeypatch):
    monkeypatch.setattr(chunked_convolution, "ELEMENTS", 10)
    x = torch.randn(1, 4, 8, 8)
    assert not chunked_convolution.needs_chunks(x)
    with torch.no_grad():
        assert chunked_convolution.needs_chunks(x)
        assert not chunked_convolution.needs_chunks(x[:, :, :2, :2])


class Operators(TorchDispatchMode):
    """Counts the operators that are started."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("name", "side", "batches"),
    [("decoder/paper", 64, (8, 32, 128, 512)), ("upsampler/256_paper", 256, (8, 128))],
)
def test_images_that_fit_are_whole_in_batches_of_any_size(name, side, batches, monkeypatch):
    """A batch is no reason for chunks: their operators are many and small (docs/log.md)."""
    resolved = load_experiment(name, [])
    with torch.device("meta"):
        net = STAGES[resolved.stage.name].build_network(resolved.config, ParentSizes(embed_dim=8))

    def operators(batch: int) -> int:
        with torch.device("meta"), torch.no_grad(), Operators() as found:
            unet = net.eval().unet
            context = (
                torch.zeros(batch, 260, resolved.config.model.text.width) if side == 64 else None
            )
            x = torch.zeros(batch, unet.input.in_channels, side, side)
            unet(x, torch.zeros(batch), context=context)
        return found.count

    counts = [operators(batch) for batch in batches]
    monkeypatch.setattr(chunked_convolution, "ELEMENTS", 1 << 60)
    assert max(counts) <= 1.1 * operators(batches[0])


def test_chunks_of_a_gpu_are_by_its_memory(monkeypatch):
    class Properties:
        total_memory = 80 << 30

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    gpu = torch.device("cuda", 0)
    for batch in (1, 64):
        assert 4 * chunked_convolution.chunk_numbers(gpu, batch) == (80 << 30) / 32
