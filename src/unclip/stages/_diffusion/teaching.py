"""Samples on which a network is taught by the one that its training began from.

Their target is what that network says of them, so that it is not forgotten while the other samples
are learned: learning without forgetting (arXiv 1606.09282), on samples of the network's own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from unclip.common.upload import upload
from unclip.diffusion.process import at_least_float32
from unclip.training import adapters

Ask = Callable[..., Tensor]
"""What a network says of what it is given of B samples: ``[B, C or 2C, ...]``."""


class Taught(NamedTuple):
    """What the teacher says of a batch, and of which samples that is the target."""

    rows: Tensor  # [R] their numbers in the batch
    output: Tensor  # [R, C or 2C, ...]

    def gap(self, output: Tensor, channels: int) -> Tensor:
        """The squared distance ``[R]`` of these rows, a mean over each kind of channels.

        Args:
            output: ``[B, C or 2C, ...]`` of the whole batch.
            channels: C; further ones say the variance.
        """
        squared = (at_least_float32(output[self.rows]) - at_least_float32(self.output)) ** 2
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

    def says(
        self,
        ask: Ask,
        net: nn.Module,
        keys: Sequence[str],
        given: Mapping[str, Any],
        device: torch.device,
    ) -> Taught | None:
        """Of a batch with these keys, of whose samples ``given`` has the tensors; None if of none.

        Args:
            ask: Takes a network and ``given``.
            net: The network that trains.
            keys: B of them.
            given: Tensors ``[B, ...]``, alone or in collections.
            device: Theirs.
        """
        numbers = [k for k, key in enumerate(keys) if key.startswith(self._prefix)]
        if not numbers:
            return None
        rows = upload(torch.tensor(numbers), device)
        own = tree_map(lambda x: x[rows] if isinstance(x, Tensor) else x, dict(given))
        with torch.no_grad():
            if self._copy is not None:
                return Taught(rows, ask(self._copy, **own))
            with adapters.left_out(net):
                return Taught(rows, ask(net, **own))
