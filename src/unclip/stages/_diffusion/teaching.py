"""Samples on which a network is taught by the one that its training began from.

Their target is what that network says of them, so that it is not forgotten while the other samples
are learned: learning without forgetting (arXiv 1606.09282), on samples of the network's own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from unclip.common.upload import upload
from unclip.diffusion.process import at_least_float32
from unclip.training import adapters

Ask = Callable[[Any], Tensor]
"""What a network says of a batch: ``[B, C or 2C, ...]``."""


class Taught(NamedTuple):
    """What the teacher says of a batch, and of which samples that is the target."""

    rows: Tensor  # [B] boolean
    output: Tensor  # [B, C or 2C, ...]

    def gap(self, output: Tensor, channels: int) -> Tensor:
        """The squared distance ``[B]`` of an output, a mean over each kind of its channels.

        Args:
            output: ``[B, C or 2C, ...]``.
            channels: C; further ones say the variance.
        """
        squared = (at_least_float32(output) - at_least_float32(self.output)) ** 2
        kinds = squared.split(channels, dim=1)
        return torch.stack([kind.flatten(1).mean(1) for kind in kinds]).sum(0)


class Teacher:
    """A network as it was before training.

    Args:
        net: The network that will train: it is copied, unless an adapter will train in it, which
            can be left out.
        source: Name of the source in ``data.mixture`` whose samples it is taught on.
        adapted: Whether an adapter will train.
    """

    def __init__(self, net: nn.Module, source: str, *, adapted: bool):
        self._copy = None if adapted else copy.deepcopy(net).requires_grad_(False).eval()
        self._prefix = f"{source}/"  # as `unclip.data.readers.wrapped.NamedSource` calls samples

    def to(self, device: torch.device) -> None:
        """Move the copy."""
        if self._copy is not None:
            self._copy.to(device)

    def says(self, ask: Ask, net: nn.Module, keys: Sequence[str], device: torch.device) -> Taught:
        """Of the batch with these keys; ``net`` is the network that trains."""
        rows = torch.tensor([key.startswith(self._prefix) for key in keys])
        with torch.no_grad():
            if self._copy is not None:
                return Taught(upload(rows, device), ask(self._copy))
            with adapters.left_out(net):
                return Taught(upload(rows, device), ask(net))
