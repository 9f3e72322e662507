"""Images with gradients, edges and texture, as photographs have them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def natural(height: int, width: int, seed: int = 0) -> Tensor:
    """``[3, H, W]`` in [0, 1], in 255ths."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / 64
    a, b, c = rng.uniform(1, 3, 3)
    light = 0.5 + 0.25 * np.sin(a * x + b * y) + 0.1 * np.sin(40 * c * (x**2 + y))
    tint = np.stack([0.2 * np.sin(b * x), 0.15 * np.cos(c * y), 0.2 * np.sin(a * (x - y))])
    image = light + tint + rng.normal(0, 0.02, (1, height, width))
    top, left = height // 3, width // 4
    image[:, top : 2 * top, left : 2 * left] = rng.uniform(0, 1, (3, 1, 1))
    return torch.from_numpy(np.round(image.clip(0, 1) * 255) / 255).float()
