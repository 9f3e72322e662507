"""Every way to compute attention gives the same numbers, or says why it cannot."""

from __future__ import annotations

import importlib.util

import pytest
import torch

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
    monkeypatch.setenv("LOCAL_RANK", "3")
    xformers_attention.check()
    assert tried == [torch.device("cuda", 3)]
