"""The autoregressive prior: a causal transformer over the PCA codes of the image embedding.

Source: arXiv 2204.06125, section 2.2 and table 3. Shapes: B batch, D embedding, K codes, N buckets,
L caption tokens, X caption width, W width. The sequence is z_t, the quantized dot product z_i·z_t
and the codes; the caption's encoding is seen by every layer.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import NamedTuple

import torch
from torch import Tensor, nn

from unclip.common.types import Caption
from unclip.embeddings.codec import Codec
from unclip.embeddings.config import RAW
from unclip.nn.caption import CaptionEncoder
from unclip.nn.context_attention import ContextBlock, LayerCache, context_mask
from unclip.nn.transformer import init_linear
from unclip.stages._prior.dry_step import some_caption
from unclip.stages.ar_prior.config import ArPriorConfig, ArPriorExperiment
from unclip.stages.experiment import ParentSizes
from unclip.stages.interface import Given, Needs, Share, all_kept, some_timesteps, some_tokens

PREFIX = 2  # z_t and the dot product


class Context(NamedTuple):
    """An encoded caption."""

    encoded: Tensor  # [B, L, X]
    visible: Tensor | None  # [B, L] boolean, True = may be seen; None = all of it


class ArPrior(nn.Module):
    """Logits of each code, given those before it, the dot product, z_t and the caption.

    One table of N code embeddings serves all K positions, which have embeddings of their own (the
    paper does not say; tables of their own would be 0.5B parameters). The codec travels with the
    weights, as buffers ``codec_*``.

    Tables start at N(0, .02²), positions at N(0, .01²), blocks as `Transformer` does, the output at
    N(0, .02²), biases at zero.
    """

    def __init__(self, config: ArPriorConfig, codec: Codec, clip_text_width: int | None = None):
        super().__init__()
        self.config = config
        width, text = config.width, config.text
        self.embed_dim, self.codes, self.buckets = codec.dim, codec.k, codec.buckets
        if config.context < self.codes + PREFIX:
            raise ValueError(f"a context of {config.context} cannot hold {self.codes} codes and 2")
        if config.caption == "bpe":
            self.text = CaptionEncoder(**asdict(config.text))
        elif clip_text_width is None:
            raise ValueError("caption=clip needs the width of CLIP's token features")
        context_width = text.width if config.caption == "bpe" else clip_text_width
        assert context_width is not None
        self.z_t_in = nn.Linear(self.embed_dim, width)
        self.dot_table = nn.Embedding(self.buckets, width)
        self.code_table = nn.Embedding(self.buckets, width)
        self.positions = nn.Parameter(torch.empty(config.context, width))
        self.blocks = nn.ModuleList(
            ContextBlock(width, config.heads, context_width, dropout=config.dropout)
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, self.buckets)
        for name, tensor in codec.tensors().items():
            self.register_buffer(f"codec_{name}", tensor)
        self._init_weights()

    def _init_weights(self) -> None:
        for name, module in self.blocks.named_modules():
            if isinstance(module, nn.Linear):
                into_stream = name.endswith(("attention.out", "mlp.2"))
                init_linear(module, gain=(2 * len(self.blocks)) ** -0.5 if into_stream else 1.0)
        init_linear(self.z_t_in)
        for table in (self.dot_table, self.code_table, self.out):
            nn.init.normal_(table.weight, std=0.02)
        nn.init.normal_(self.positions, std=0.01)
        nn.init.zeros_(self.out.bias)

    @property
    def codec(self) -> Codec:
        """What turns z_i into codes and back, with this network's buffers."""
        names = {k: v for k, v in self.named_buffers() if k.startswith("codec_")}
        tensors = {k.removeprefix("codec_"): v for k, v in names.items()}
        return Codec.from_tensors(tensors, self.config.embeddings)

    def load_codec(self, codec: Codec) -> None:
        """Take over the tensors of ``codec``, which has this network's sizes."""
        for name, tensor in codec.tensors().items():
            self.register_buffer(f"codec_{name}", tensor)

    def encode_caption(self, caption: Caption, keep: Tensor | None = None) -> Context:
        """The caption as every layer sees it; ``keep`` ``[B]`` False drops it.

        Own tokens are encoded (dropped: all padding, which still attends, unlike masking). CLIP's
        features are taken as they are, padding masked (dropped: all masked).

        Raises:
            ValueError: the caption is of the other kind, or of another length.
        """
        mask = caption.mask if keep is None else caption.mask & keep[:, None]
        if self.config.caption == "bpe":
            if caption.tokens is None:
                raise ValueError("a prior with caption=bpe needs a caption's tokens")
            encoded = self.text(caption.tokens, mask)
            return Context(encoded, None)
        if caption.features is None:
            raise ValueError("a prior with caption=clip needs a caption's CLIP token features")
        return Context(caption.features.to(self.z_t_in.weight.dtype), mask)

    def prefix(self, z_t: Tensor, dot: Tensor, keep: Tensor | None = None) -> Tensor:
        """Embeddings ``[B, 2, W]`` of z_t ``[B, D]`` and the dot's bucket ``[B]``.

        Where ``keep`` is False z_t is zeros; the dot product stays, since it is not text.
        """
        if keep is not None:
            z_t = torch.where(keep[:, None], z_t, 0)
        scale = 1.0 if self.config.embeddings == RAW else math.sqrt(self.embed_dim)
        scaled = z_t.to(self.z_t_in.weight.dtype) * scale
        return torch.stack([self.z_t_in(scaled), self.dot_table(dot)], dim=1)

    def forward(
        self,
        codes: Tensor,
        *,
        dot: Tensor,
        z_t: Tensor,
        caption: Caption,
        keep: Tensor | None = None,
    ) -> Tensor:
        """Logits ``[B, K, N]`` of the codes ``[B, K]``, each from those before it.

        Args:
            codes: in [0, N), by decreasing eigenvalue.
            dot: bucket of z_i·z_t ``[B]``, in [0, N).
            z_t: text embeddings ``[B, D]``.
            caption: own tokens or CLIP's features, as the config says, with the mask.
            keep: ``[B]`` boolean, False drops caption and z_t of that sample; None keeps all.

        Raises:
            ValueError: another number of codes or another caption than the network's.
        """
        if codes.shape[1] != self.codes:
            raise ValueError(f"{codes.shape[1]} codes: this prior has {self.codes}")
        context = self.encode_caption(caption, keep)
        x = torch.cat([self.prefix(z_t, dot, keep), self.code_table(codes[:, :-1])], dim=1)
        x = x + self.positions[: x.shape[1]]
        mask = None if context.visible is None else context_mask(context.visible, x.shape[1])
        for block in self.blocks:
            x = block(x, context.encoded, mask)
        return self.out(self.norm(x[:, PREFIX - 1 :]))

    def start(self, context: Context) -> list[LayerCache]:
        """Empty caches of all layers for one sampling with ``context``."""
        length = PREFIX + self.codes - 1
        return [block.attention.start(context.encoded, length) for block in self.blocks]  # type: ignore[operator, union-attr]

    def step(
        self, x: Tensor, position: Tensor, caches: list[LayerCache], context: Context
    ) -> Tensor:
        """Logits ``[B, N]`` of the code after ``position`` ``[1]``, for its embedding ``[B, W]``.

        Position 0 is z_t, 1 the dot product (whose logits are the first code's), k + 1 code k.
        Shapes never change and nothing is read back from the device.
        """
        length = PREFIX + self.codes - 1
        done = torch.arange(length, device=x.device) <= position
        visible = context.visible
        if visible is None:
            visible = done.new_ones(context.encoded.shape[:2])
        seen = torch.cat([visible, done.expand(len(x), -1)], dim=1)
        slot = position + visible.shape[1]
        x = (x + self.positions[position])[:, None]
        for block, cache in zip(self.blocks, caches):
            x = block.step(x, cache, slot, seen)  # type: ignore[operator]
        return self.out(self.norm(x[:, 0]))


def build_network(experiment: ArPriorExperiment, sizes: ParentSizes) -> ArPrior:
    """See `unclip.stages.row.Row`; its codec is empty until `ArPrior.load_codec`."""
    model = experiment.model
    embed_dim = model.embed_dim or sizes.embed_dim
    codes, buckets = model.codes or sizes.codes, model.buckets or sizes.buckets
    assert embed_dim is not None
    assert codes is not None
    assert buckets is not None
    codec = Codec.empty(embed_dim, codes, buckets)
    return ArPrior(model, codec, model.clip_text_width or sizes.text_width)


def needs(experiment: ArPriorExperiment) -> Needs:
    """Both embeddings."""
    return Needs(image=True, text=True)


def dry_step(net: ArPrior, experiment: ArPriorExperiment, given: Given, share: Share) -> Tensor:
    """Logits of all codes at once."""
    assert given.text is not None
    model = experiment.model
    return net(
        some_tokens(share.batch, net.codes),
        dot=some_timesteps(share.batch),
        z_t=given.text.z_t,
        caption=some_caption(model.caption, model.text.context, given, share),
        keep=all_kept(share.batch),
    )
