"""The caption transformer of the decoder and of the autoregressive prior.

Shapes: B batch, L tokens, X width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unclip.nn.transformer import Transformer


class CaptionEncoder(nn.Module):
    """GLIDE's bidirectional caption transformer (arXiv 2112.10741, section 4.1).

    A padding position is not masked: it is replaced by an embedding learned for that position, and
    takes part like a word. Tables start at N(0, .02²), positions at N(0, .01²).
    """

    def __init__(self, *, context: int, vocabulary: int, width: int, layers: int, heads: int):
        super().__init__()
        self.table = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.empty(context, width))
        self.padding = nn.Parameter(torch.empty(context, width))
        self.transformer = Transformer(width=width, layers=layers, heads=heads, causal=False)
        self.norm = nn.LayerNorm(width)
        nn.init.normal_(self.table.weight, std=0.02)
        nn.init.normal_(self.padding, std=0.02)
        nn.init.normal_(self.positions, std=0.01)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """``tokens`` ``[B, L]``, ``mask`` ``[B, L]`` True = a real token, to ``[B, L, X]``.

        Raises:
            ValueError: L is not the context the encoder was built for.
        """
        if tokens.shape[1] != len(self.positions):
            raise ValueError(
                f"captions of {tokens.shape[1]} tokens: this network takes {len(self.positions)}"
            )
        words = self.table(tokens) + self.positions
        return self.norm(self.transformer(torch.where(mask[:, :, None], words, self.padding)))
