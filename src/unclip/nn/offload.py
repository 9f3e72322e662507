"""Networks that take turns on a device, whose memory need not hold them all."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from unclip.nn.blocks import blocks_of

_PLACE = "runs_on"  # attribute of a network whose weights may be elsewhere


def device_of(net: nn.Module) -> torch.device:
    """Where ``net`` computes, wherever its weights wait."""
    place: Any = getattr(net, _PLACE, None)
    return next(net.parameters()).device if place is None else place


class Parts(NamedTuple):
    """A network by what moves together."""

    own: list[nn.Module]  # those with children, whose own tensors stay on the device
    layers: list[nn.Module]  # outside the blocks
    blocks: list[nn.Module]  # with all that is in them


def parts_of(net: nn.Module) -> Parts:
    """The modules of ``net``; each is in one part."""
    blocks = blocks_of(net)
    inside = {id(module) for block in blocks for module in block.modules()}
    outside = [module for module in net.modules() if id(module) not in inside]
    layers = {id(module) for module in outside if not any(True for _ in module.children())}
    return Parts(
        [module for module in outside if id(module) not in layers],
        [module for module in outside if id(module) in layers],
        blocks,
    )


class Offload:
    """Moves weights to a device when a layer that needs them is called, and others away.

    One network is on the device at a time; with ``blocks`` one block of it, and what is outside
    its blocks. Weights must not change: those that leave are dropped, as their originals wait in
    the machine's memory (pinned for CUDA, so that copies do not make the host wait).

    A network's own numbers outside all layers (positions, null vectors, codecs) stay on the device
    for good: they are few, and are used by methods that nothing announces.

    Args:
        device: Where the networks compute.
        blocks: Whether a network's blocks take turns as well.
    """

    def __init__(self, device: torch.device, *, blocks: bool = False):
        self.device = device
        self.blocks = blocks
        self.arrivals: list[str] = []  # of units, by name
        self._added: list[nn.Module] = []
        self._present: dict[str, _Unit] = {}  # "network" and "block"

    def add(self, net: nn.Module, name: str = "") -> None:
        """Let ``net``, frozen, take turns with the others; again is no change."""
        if any(net is other for other in self._added):
            return
        self._added.append(net)
        setattr(net, _PLACE, self.device)
        name = name or type(net).__name__
        own, layers, parts = parts_of(net)
        _Unit(self.device, own, "").arrive()
        if not self.blocks:
            layers = [*layers, *(module for block in parts for module in block.modules())]
        network = _Unit(self.device, layers, name)
        blocks: dict[int, _Unit] = {}
        for k, block in enumerate(parts if self.blocks else []):
            unit = _Unit(self.device, block.modules(), f"{name} {k}")
            blocks.update((id(module), unit) for module in block.modules())
        for module in net.modules():
            need = partial(self._need, network, blocks.get(id(module)))
            module.register_forward_pre_hook(need)

    def _need(self, network: _Unit, block: _Unit | None, *call: Any) -> None:
        if torch.compiler.is_compiling():  # a compiled block; its network is there already
            return
        if self._present.get("network") is not network:
            self._leave("block", "network")
            self._arrive("network", network)
        if block is not None and self._present.get("block") is not block:
            self._leave("block")
            self._arrive("block", block)

    def _leave(self, *kinds: str) -> None:
        for kind in kinds:
            if kind in self._present:
                self._present.pop(kind).leave()

    def _arrive(self, kind: str, unit: _Unit) -> None:
        unit.arrive()
        self._present[kind] = unit
        self.arrivals.append(unit.name)


class _Unit:
    """Tensors that move together."""

    def __init__(self, device: torch.device, modules: Iterable[nn.Module], name: str):
        self.name = name
        self._device = device
        self._slots: list[tuple[dict[str, Any], str, Tensor]] = []
        for module in modules:
            for slots in (module._parameters, module._buffers):
                for key, tensor in slots.items():
                    if tensor is not None:
                        self._slots.append((slots, key, self._waiting(tensor)))
        self.leave()

    def _waiting(self, tensor: Tensor) -> Tensor:
        if self._device.type != "cuda" or tensor.device.type != "cpu":
            return tensor
        return _like(tensor.data.pin_memory(), tensor)

    def arrive(self) -> None:
        with torch.inference_mode(False), torch.no_grad():
            for slots, key, tensor in self._slots:
                slots[key] = _like(tensor.data.to(self._device, non_blocking=True), tensor)

    def leave(self) -> None:
        for slots, key, tensor in self._slots:
            slots[key] = tensor


def _like(data: Tensor, tensor: Tensor) -> Tensor:
    """``data`` as a parameter if ``tensor`` is one."""
    return nn.Parameter(data, requires_grad=False) if isinstance(tensor, nn.Parameter) else data
