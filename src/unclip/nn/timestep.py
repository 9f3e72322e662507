"""The sinusoidal embedding of a diffusion timestep and the MLP behind it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

MAX_PERIOD = 10000


def timestep_embedding(t: Tensor, width: int) -> Tensor:
    """Cosines, then sines, of t·ω_k with ω_k = 10000^(−k/(width/2)), k = 0 … width/2 − 1.

    Arguments ``t`` ``[B]`` (integer or not) give float32 ``[B, width]`` in [-1, 1], whatever the
    precision of the network: bfloat16 cannot tell t = 998 from 999. Source: arXiv 1706.03762,
    section 3.5, in the order of diffusion models (arXiv 2006.11239: halves, not interleaved). ω is
    rounded where guided diffusion, GLIDE, Karlo and diffusers round it, so that their weights
    compute the same here at every width.

    Raises:
        ValueError: ``width`` is odd.
    """
    if width % 2:
        raise ValueError(f"a timestep embedding needs an even width, not {width}")
    k = torch.arange(width // 2, dtype=torch.float32, device=t.device)
    omega = torch.exp(-math.log(MAX_PERIOD) * k / (width // 2))
    angles = t.float()[:, None] * omega
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class TimestepMLP(nn.Module):
    """Sinusoidal embedding → Linear → SiLU → Linear."""

    def __init__(self, width: int, out_width: int):
        super().__init__()
        self.width = width
        self.hidden = nn.Linear(width, out_width)
        self.activation = nn.SiLU()
        self.out = nn.Linear(out_width, out_width)

    def forward(self, t: Tensor) -> Tensor:
        """Timesteps ``[B]`` to ``[B, out_width]`` in the precision of the weights."""
        sinusoid = timestep_embedding(t, self.width).to(self.hidden.weight.dtype)
        return self.out(self.activation(self.hidden(sinusoid)))
