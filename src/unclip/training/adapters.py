"""Puts an adapter into a network that is to be fine-tuned: LoRA by the library peft, or a word."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase

from torch import Tensor, nn

from unclip.common.adapters import WORD, AdapterConfig
from unclip.common.checks import require
from unclip.common.errors import UserError
from unclip.nn.blocks import blocks_of

_NAME = "default"  # peft's, of an adapter: it is part of the weights' names


def own_name(name: str) -> str | None:
    """How an artifact calls a weight of the adapter; None of any other weight."""
    if name.rpartition(".")[2] == WORD:
        return WORD
    return name.replace(f".{_NAME}.", ".") if ".lora_" in name else None


def targets(net: nn.Module, patterns: list[str] | None) -> list[str]:
    """The layers that get an adapter: linear and convolutional ones.

    Args:
        net: Its blocks are those of `unclip.nn.blocks`.
        patterns: Of names, as ``*.qkv``; None for all of the blocks.

    Raises:
        UserError: a pattern names no such layer.
    """
    names = {id(module): name for name, module in net.named_modules()}
    inside = {id(part) for block in blocks_of(net) for part in block.modules()}
    layers = {
        names[id(m)]: id(m) in inside for m in net.modules() if isinstance(m, nn.Linear | nn.Conv2d)
    }
    if patterns is None:
        return [name for name, is_inside in layers.items() if is_inside]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in layers):
            raise UserError(
                f"adapter.targets={pattern}: names no linear or convolutional layer; they are "
                f"called as {next(iter(layers))}"
            )
    return [name for name in layers if any(fnmatchcase(name, p) for p in patterns)]


def _most(layer: nn.Module) -> int:
    """The longer side of a layer's weight: an adapter of more is larger and no better."""
    weight = layer.get_parameter("weight")
    return max(len(weight), weight[0].numel())


def share(average: nn.Module, net: nn.Module) -> None:
    """Let ``average`` have the very weights of ``net`` that do not train, instead of a copy."""
    for name, parameter in net.named_parameters():
        if not parameter.requires_grad:
            layer, _, own = name.rpartition(".")
            setattr(average.get_submodule(layer), own, parameter)


@contextmanager
def left_out(net: nn.Module) -> Iterator[None]:
    """Let ``net`` say what it says without its adapter, and without dropout."""
    from peft.tuners.tuners_utils import BaseTunerLayer  # slow

    layers = [module for module in net.modules() if isinstance(module, BaseTunerLayer)]
    training = net.training
    net.eval()
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        net.train(training)


def inject_word(net: nn.Module, rows: Tensor) -> None:
    """Have the rows ``[n, W]`` of a learned word in ``net``; nothing else of it trains any more."""
    net.requires_grad_(False)
    net.register_parameter(WORD, nn.Parameter(rows))


def inject(net: nn.Module, config: AdapterConfig) -> None:
    """Add the adapter to ``net`` in place, B zero; nothing else of ``net`` trains any more.

    Raises:
        UserError: peft is not installed, a pattern names no layer, or the rank is beyond all.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model  # slow
    except ImportError:
        raise UserError(
            "adapter.kind=lora: needs peft, which is not installed: pip install 'unclip[finetune]'"
        ) from None
    layers = targets(net, config.targets)
    widest = max(_most(net.get_submodule(name)) for name in layers)
    require(config.rank <= widest, "adapter.rank", f"must be at most {widest}, of its widest layer")
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.scale * config.rank,  # type: ignore[arg-type]
        lora_dropout=config.dropout,
        target_modules="|".join(map(re.escape, layers)),
        bias="none",
    )
    inject_adapter_in_model(lora, net, adapter_name=_NAME)
