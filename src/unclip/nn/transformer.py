"""The pre-norm transformer of the priors and of the decoder's caption encoder.

Shapes: B batch, L positions, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unclip.nn.attention import SelfAttention, causal_mask


class TransformerBlock(nn.Module):
    """x + attention(LN(x)), then x + MLP(LN(x)) with a hidden width of 4W and GELU."""

    def __init__(self, width: int, heads: int, *, dropout: float = 0.0):
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """``[B, L, W]`` to the same; ``mask`` and ``causal`` as in `unclip.nn.attention.attend`."""
        x = x + self.dropout(self.attention(self.attention_norm(x), mask, causal))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class Transformer(nn.Module):
    """A stack of blocks; embeddings before it and the final norm after it are its owner's.

    Weights start at N(0, 1/fan-in), those that write into the residual stream divided by
    √(2·layers) so that its variance does not grow with depth (GPT-2's rule); biases at zero.
    """

    def __init__(self, *, width: int, layers: int, heads: int, causal: bool, dropout: float = 0.0):
        super().__init__()
        self.causal = causal
        self.blocks = nn.ModuleList(
            TransformerBlock(width, heads, dropout=dropout) for _ in range(layers)
        )
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                into_stream = name.endswith(("attention.out", "mlp.2"))
                init_linear(module, gain=(2 * layers) ** -0.5 if into_stream else 1.0)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Run the blocks.

        Args:
            x: ``[B, L, W]``.
            mask: boolean, broadcastable to ``[B, heads, L, L]``, True = may be seen; a mask over
                keys is ``[B, 1, 1, L]``. In a causal transformer it only takes away. Every position
                sees itself, whatever the mask says.
        """
        length = x.shape[1]
        if mask is not None:  # made once here, not once per block
            if self.causal:
                mask = mask & causal_mask(length, length, x.device)
            mask = mask | torch.eye(length, dtype=torch.bool, device=x.device)
        for block in self.blocks:
            x = block(x, mask, self.causal and mask is None)
        return x


def init_linear(linear: nn.Linear, *, gain: float = 1.0) -> None:
    """Weights from N(0, gain²/fan-in), bias zero if there is one."""
    nn.init.normal_(linear.weight, std=gain * linear.in_features**-0.5)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
