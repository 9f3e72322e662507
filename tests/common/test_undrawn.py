"""Weights that are read from a file are not drawn first."""

from __future__ import annotations

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from unclip.common.undrawn import Undrawn
from unclip.pipeline.pipeline import Pipeline


class Seen(TorchFunctionMode):
    """Notes what draws numbers for a tensor."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (torch.Tensor.normal_, torch.Tensor.uniform_) or is_of_init(func):
            self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


def is_of_init(func) -> bool:
    return getattr(func, "__module__", "") == "torch.nn.init"


def test_a_cascade_is_loaded_without_a_draw(cascade):
    with Seen() as seen:
        nn.Linear(2, 2)
        assert len(seen.names) == 2
        Pipeline.load(cascade)
    assert len(seen.names) == 2


def test_what_is_no_parameter_is_as_it_would_be():
    def build() -> nn.Module:
        net = nn.BatchNorm2d(3)
        net.register_buffer("table", torch.arange(4.0).exp())
        return net

    with Undrawn():
        found = build()
    for name, buffer in build().named_buffers():
        assert torch.equal(found.get_buffer(name), buffer)
    assert torch.equal(torch.ones(2).uniform_(5, 6).floor(), torch.full((2,), 5.0))
