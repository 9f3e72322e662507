"""Sharpness-aware minimisation (SAM, Foret et al., arXiv 2010.01412), as DALL-E 2 trains its CLIP.

At weights w with gradient g, SAM climbs to w + e, e = rho g / |g|_2 over all trained parameters,
and the optimizer gets the gradient at w + e, applied to w. Every step costs two passes.

Each replica climbs by itself (arXiv 2204.06125, appendix C): processes do not average g. Where a
loss compares the samples of all processes, as CLIP's does, it is one function of as many copies of
the weights as there are replicas, L(w_1, ..., w_R), copy r embedding replica r's samples. Replica r
climbs along dL/dw_r, and the optimizer gets the sum of dL/dw_r at (w + e_1, ..., w + e_R). So
for e_r the replicas exchange embeddings and the loss's gradients by them, never gradients by
weights; for that exchange all of them must climb at the same steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from unclip.training.strategies import shards

TINY = 1e-12
"""The least norm divided by: without a gradient there is no climb."""


class Climb:
    """One step's way from w to w + e and back; of a network that this process has whole.

    Made before the forward passes at w; then `up`, forward and backward passes at w + e, before
    the last of these `before_last_backward`, and `back`.
    """

    def __init__(self, net: nn.Module, rho: float):
        self.net = net
        self.rho = rho
        self._kept: list[tuple[Tensor, Tensor]] = []  # tensors of the network and what they held

    def up(self, losses: Iterable[Tensor]) -> None:
        """Move the network from w to w + e by the gradient of the sum of its ``losses`` at w."""
        trained = {name: p for name, p in self.net.named_parameters() if p.requires_grad}
        gradients: dict[str, Tensor] = {}
        for loss in losses:
            # Not `backward`: DDP would average the gradients and the optimizer add them up. Without
            # autocast, as Lightning runs the backward pass.
            with torch.autocast(loss.device.type, enabled=False):
                found = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
            for name, g in zip(trained, found):
                if g is not None:
                    gradients[name] = gradients[name] + g if name in gradients else g
        # What a forward pass updates (the means of batch normalisation) is updated at w alone.
        self._keep(list(self.net.buffers()))
        with torch.no_grad():
            norms = torch._foreach_norm(list(gradients.values()), 2, dtype=torch.float32)
            scale = self.rho / torch.linalg.vector_norm(torch.stack(norms)).clamp(min=TINY)
            self._move({name: trained[name] for name in gradients}, gradients, scale)
        torch.clear_autocast_cache()  # it holds w in bfloat16

    def before_last_backward(self) -> None:
        """The backward pass to come is the last one at w + e."""

    def back(self) -> None:
        """Put the network back to the very bits of w."""
        with torch.no_grad():
            for tensor, held in self._kept:
                tensor.copy_(held)
        self._kept.clear()

    def _keep(self, tensors: Sequence[Tensor]) -> None:
        self._kept += [(tensor, tensor.detach().clone()) for tensor in tensors]

    def _move(
        self, weights: dict[str, Tensor], gradients: dict[str, Tensor], scale: Tensor
    ) -> None:
        """W += scale * g."""
        self._keep(list(weights.values()))
        steps = torch._foreach_mul(list(gradients.values()), scale)
        torch._foreach_add_(list(weights.values()), steps)


class ShardedClimb(Climb):
    """The same under FSDP2, where a process has its rows of w and climbs with a copy of the whole.

    The weights gathered for the first forward pass are kept until the last backward pass, which
    sends gradients as usual and then drops them: the rows are never touched. In between every
    process holds whole weights and, for a moment, whole gradients.
    """

    def __init__(self, net: nn.Module, rho: float):
        super().__init__(net, rho)
        self._root = cast(FSDPModule, net)
        self._reshard()  # after a validation the root is still whole
        self._rows: dict[str, Any] = dict(net.named_parameters())
        self._root.set_reshard_after_forward(False)
        self._root.set_reshard_after_backward(False)
        self._root.set_requires_gradient_sync(False)

    def before_last_backward(self) -> None:
        """It sends the gradients and drops the copy."""
        self._root.set_reshard_after_backward(True)
        self._root.set_requires_gradient_sync(True)

    def back(self) -> None:
        """Drop the copy."""
        super().back()
        self._root.set_reshard_after_forward(True)
        self._root.set_reshard_after_forward(False, recurse=False)  # FSDP2's choice for a root
        self._reshard()

    def _reshard(self) -> None:
        for part in shards(self.net):
            part.reshard()

    def _move(
        self, weights: dict[str, Tensor], gradients: dict[str, Tensor], scale: Tensor
    ) -> None:
        """The copy becomes w + e, rounded once: e is less than a bfloat16 weight can change by."""
        for name, weight in weights.items():
            step, rows = scale * gradients[name].float(), self._rows[name]
            if weight.dtype == rows.dtype:
                weight.add_(step)
            else:
                weight.copy_(rows.to(weight.device).full_tensor() + step)


def climb(net: nn.Module, rho: float) -> Climb:
    """The climb of ``net`` for this step; before its forward passes."""
    return ShardedClimb(net, rho) if isinstance(net, FSDPModule) else Climb(net, rho)
