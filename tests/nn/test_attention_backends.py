"""Every way to compute attention gives the same numbers, or says why it cannot."""

from __future__ import annotations

import importlib.util

import pytest
import torch
import torch.nn.functional as F
from fake_gpu import GPU, FakeGpu
from torch.overrides import TorchFunctionMode

from unclip.common.errors import UserError
from unclip.nn import attention, xformers_attention


def inputs(shape=(2, 3, 10, 8), keys=14):
    generator = torch.Generator().manual_seed(0)
    sizes = (shape, (*shape[:2], keys, shape[3]), (*shape[:2], keys, shape[3]))
    return [torch.randn(s, generator=generator, requires_grad=True) for s in sizes]


def masks():
    mask = torch.rand(2, 1, 10, 14, generator=torch.Generator().manual_seed(1)) < 0.5
    mask[..., 0] = True
    return mask


@pytest.mark.parametrize("name", ["math", "auto"])
@pytest.mark.parametrize("kind", ["plain", "mask", "causal"])
def test_backends_agree_forward_and_backward(name, kind):
    found = []
    for chosen in ("sdpa", name):
        q, k, v = inputs(keys=10 if kind == "causal" else 14)
        with attention.backend(chosen):
            out = attention.attend(q, k, v, masks() if kind == "mask" else None, kind == "causal")
            out.square().sum().backward()
        found.append([out, q.grad, k.grad, v.grad])
    for expected, value in zip(*found):
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)


def test_the_choice_ends_with_its_context():
    with attention.backend("math"):
        with attention.backend("auto"):
            assert attention._selected == "sdpa"
        assert attention._selected == "math"
    assert attention._selected == "sdpa"


def enter(name):
    with attention.backend(name):
        pass


def test_xformers_says_why_it_cannot_serve(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"trainer\.attention=xformers: not installed; pip install"):
        enter("xformers")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: "there")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"needs a GPU, none found; use trainer\.attention=sdpa"):
        enter("xformers")


def test_xformers_is_tried_on_the_gpu_of_the_process(monkeypatch):
    """A context on GPU 0 costs it memory, once for each process."""
    tried, randn = [], torch.randn

    def noted(*shape, device, **given):
        tried.append(device)
        return randn(*shape, **given)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: "there")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "randn", noted)
    monkeypatch.setattr(xformers_attention, "attend", lambda q, k, v, mask, causal: q)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setenv("LOCAL_RANK", "3")
    xformers_attention.check()
    assert tried == [torch.device("cuda", 3)]


@pytest.mark.parametrize(
    ("capability", "half"), [((7, 0), "float16"), ((7, 5), "float16"), ((9, 0), "bfloat16")]
)
def test_xformers_is_tried_in_the_half_precision_that_a_gpu_has(monkeypatch, capability, half):
    """A V100 and a T4 have no units for bfloat16, and xformers no kernel."""
    tried, randn = [], torch.randn

    def noted(*shape, device, dtype, **given):
        tried.append(dtype)
        return randn(*shape, **given)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: "there")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch, "randn", noted)
    monkeypatch.setattr(xformers_attention, "attend", lambda q, k, v, mask, causal: q)
    xformers_attention.check()
    assert tried == [getattr(torch, half)]


class Widths(TorchFunctionMode):
    """Channels and scale that attention is called with."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.scaled_dot_product_attention:
            self.seen += [(x.shape[-1], kwargs.get("scale")) for x in args[:3]]
        return func(*args, **kwargs or {})


@pytest.mark.parametrize(("channels", "padded"), [(20, 24), (12, 16), (64, 64)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_heads_of_a_gpu_have_channels_that_kernels_take(channels, padded, dtype):
    """Else fp16 on a T4, and float32 everywhere, would hold the whole matrix of scores."""
    with FakeGpu(), Widths() as widths, torch.no_grad():
        q = torch.zeros(2, 3, 10, channels, dtype=dtype).to(GPU)
        out = attention.attend(q, q, q, torch.ones(10, 10, dtype=torch.bool).to(GPU))
        assert out.shape == q.shape
    scale = None if channels == padded else channels**-0.5
    assert widths.seen == [(padded, scale)] * 3


@pytest.mark.parametrize("kind", ["plain", "mask", "causal"])
def test_channels_of_zeros_change_nothing(monkeypatch, kind):
    """As a GPU pads them, on tensors that say they are on one."""
    mask = masks() if kind == "mask" else None
    shape = {"shape": (2, 3, 10, 12), "keys": 10 if kind == "causal" else 14}
    q, k, v = (x.detach() for x in inputs(**shape))
    wanted = attention.attend(q, k, v, mask, kind == "causal")
    monkeypatch.setattr(attention, "ALIGNED", 5)
    said = [x.as_subclass(SaysCuda) for x in (q, k, v)]
    found = attention.attend(*said, mask, kind == "causal")
    torch.testing.assert_close(found.as_subclass(torch.Tensor), wanted, rtol=1e-5, atol=1e-6)


class SaysCuda(torch.Tensor):
    """Of the CPU, whatever it says."""

    @property
    def device(self):
        return GPU
