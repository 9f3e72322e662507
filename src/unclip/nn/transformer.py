"""The pre-norm transformer of the priors and of the decoder's caption encoder.

Shapes: B batch, L positions, W width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from unclip.nn.attention import KeysValues, SelfAttention, causal_mask


class Read(NamedTuple):
    """The beginning of a sequence, as a causal transformer keeps it for what follows."""

    kept: list[KeysValues]  # of each block
    mask: Tensor  # [B or 1, 1, L, S] True = the L positions to come may see this one of all S

    def first(self, count: int) -> Read:
        """That of the first ``count`` sequences of the batch."""
        kept = [KeysValues(*(part[:count] for part in each)) for each in self.kept]
        return Read(kept, self.mask[:count])


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

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        causal: bool = False,
        *,
        before: KeysValues | None = None,
    ) -> Tensor:
        """``[B, L, W]`` to the same; the rest as in `SelfAttention.forward`."""
        normed = self.attention_norm(x)
        x = x + self.dropout(self.attention(normed, mask, causal, before=before))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))

    def keys_values(self, x: Tensor) -> KeysValues:
        """Of x ``[B, L, W]``, for positions that come after it."""
        return self.attention.keys_values(self.attention_norm(x))


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
        if mask is not None:
            mask = self._mask(mask, x.shape[1], x.shape[1], x.device)
        for block in self.blocks:
            x = block(x, mask, self.causal and mask is None)
        return x

    def read(self, x: Tensor, more: int, mask: Tensor | None = None) -> Read:
        """What `resume` needs of ``x`` ``[B, S - L, W]``, however often the rest changes.

        Of a causal transformer alone, in which nothing here depends on what follows.

        Args:
            x: the beginning of a sequence.
            more: L, the positions that follow.
            mask: over the keys of the whole sequence ``[B, 1, 1, S]``, as in `forward`.
        """
        length = x.shape[1]
        rest = x.new_ones(1, 1, 1, length + more, dtype=torch.bool) if mask is None else mask
        rest = self._mask(rest, more, length + more, x.device)
        mask = None if mask is None else self._mask(mask[..., :length], length, length, x.device)
        kept = []
        for block in self.blocks:
            kept.append(block.keys_values(x))  # type: ignore[operator]  # a list of any modules
            x = block(x, mask, mask is None)
        return Read(kept, rest)

    def resume(self, x: Tensor, before: Read) -> Tensor:
        """`forward` at the last L positions ``x`` ``[B, L, W]`` of a sequence that was `read`."""
        for block, kept in zip(self.blocks, before.kept, strict=True):
            x = block(x, before.mask, before=kept)
        return x

    def _mask(self, mask: Tensor, length: int, whole: int, device: torch.device) -> Tensor:
        """``mask`` for the last ``length`` of ``whole`` positions; once, not once per block."""
        if self.causal:
            mask = mask & causal_mask(length, whole, device)
        return mask | torch.eye(whole, dtype=torch.bool, device=device)[-length:]


def init_linear(linear: nn.Linear, *, gain: float = 1.0) -> None:
    """Weights from N(0, gain²/fan-in), bias zero if there is one."""
    nn.init.normal_(linear.weight, std=gain * linear.in_features**-0.5)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
