"""The gradient of a loss that compares all samples of a batch, from micro-batches of it.

Cached gradients (GradCache, Gao et al., arXiv 2101.06983): embed all micro-batches without a
graph, differentiate the loss by the embeddings, then embed each micro-batch once more and send its
embeddings' gradient to the weights. The result is that of the whole batch, up to rounding; what is
held at once is the graph of one micro-batch. It costs one more forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from unclip.data.batches import ClipBatch
from unclip.embeddings.clip import ClipOutput

Embed = Callable[[ClipBatch], ClipOutput]
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]  # of z_i and z_t [B, D] and the scale


class StepLoss(NamedTuple):
    """The loss of a step, and what to differentiate by the weights."""

    value: Tensor  # of the whole batch, without a graph
    scale: Tensor  # the inverse temperature
    pieces: Iterator[Tensor]  # one per micro-batch, made when asked for: their gradients add up


def step_loss(net: nn.Module, embed: Embed, batches: Sequence[ClipBatch], loss: Loss) -> StepLoss:
    """``loss`` of the samples of all ``batches``, which share a process's part of a global batch.

    Args:
        net: The network that ``embed`` uses; its buffers are updated once per micro-batch.
        embed: Embeds a micro-batch.
        batches: The micro-batches of the step.
        loss: Compares all samples with each other, also with those of other processes.
    """
    if len(batches) == 1:
        z_i, z_t, scale = embed(batches[0])
        found = loss(z_i, z_t, scale)
        return StepLoss(found.detach(), scale.detach(), iter([found]))
    with torch.no_grad():
        buffers = [(buffer, buffer.clone()) for buffer in net.buffers()]
        embedded = [embed(batch) for batch in batches]
        for buffer, held in buffers:  # the second pass updates the means of batch normalisation
            buffer.copy_(held)
    torch.clear_autocast_cache()  # torch before 2.15 would reuse its casts, which have no graph
    leaves = [
        torch.cat([each.z_i for each in embedded]).requires_grad_(),
        torch.cat([each.z_t for each in embedded]).requires_grad_(),
        embedded[0].scale.detach().requires_grad_(),
    ]
    with torch.enable_grad():
        found = loss(*leaves)
    by_image, by_text, by_scale = torch.autograd.grad(found, leaves)
    rows = [len(each.z_i) for each in embedded]

    def pieces() -> Iterator[Tensor]:
        parts = zip(batches, by_image.split(rows), by_text.split(rows), strict=True)
        for k, (batch, of_image, of_text) in enumerate(parts):
            z_i, z_t, scale = embed(batch)
            piece = (z_i * of_image).sum() + (z_t * of_text).sum()
            # In the last one, in whose backward pass DDP waits for every parameter.
            yield piece + scale * by_scale if k == len(batches) - 1 else piece

    return StepLoss(found.detach(), embedded[0].scale.detach(), pieces())
