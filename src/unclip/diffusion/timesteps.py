"""Which timesteps training visits: evenly, as in the paper, or most where an image is decided."""

from __future__ import annotations

import torch
from torch import Tensor

from unclip.common.devices import widened
from unclip.diffusion.config import DiffusionConfig


def timesteps_of(u: Tensor, config: DiffusionConfig) -> Tensor:
    """Timesteps ``[B]`` in [0, T) from uniform draws ``u`` ``[B]`` in [0, 1).

    ``logit_normal`` follows t/T = sigmoid(m + s n), n ~ N(0, 1) (Esser et al. 2024, arXiv
    2403.03206, section 3.1), here by its inverse distribution function. The loss is not reweighted:
    the density is the weight. ``importance`` draws from the history of the losses, for which see
    `unclip.diffusion.importance`.
    """
    if config.timesteps == "importance":
        raise ValueError("importance draws timesteps from a LossHistory")
    if config.timesteps == "logit_normal":
        u = torch.sigmoid(config.logit_mean + config.logit_std * torch.special.ndtri(widened(u)))
    return (u * config.steps).long().clamp(max=config.steps - 1)
