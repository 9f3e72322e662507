"""LAION's diffusion prior: a causal transformer as wide as the embedding that it predicts.

The network of LAION's published priors, by the formulas of dalle2-pytorch 1.15: multi-query
attention by cosine, rotary positions and T5's bias instead of a table of positions, gated MLPs, no
biases, and no projections of z_t and z_i. Shapes: B batch, D embedding and width, L words.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from unclip.common.types import Caption
from unclip.embeddings.config import RAW
from unclip.embeddings.lengths import as_embeddings
from unclip.nn.multi_query import (
    DistanceBias,
    MultiQueryBlock,
    StableNorm,
    rotary_frequencies,
)
from unclip.nn.transformer import init_linear
from unclip.stages._prior.dry_step import some_caption
from unclip.stages.experiment import ParentSizes
from unclip.stages.interface import Given, Needs, Share, all_kept, some_timesteps
from unclip.stages.laion_prior.config import LaionPriorConfig, LaionPriorExperiment


class LaionPrior(nn.Module):
    """Predicts x_0 = √D · z_i from its noised version, CLIP's token features and z_t.

    The sequence is L words, z_t, the timestep, the noised z_i and a learned query, whose output is
    the prediction. Where CLIP's token features have another width than D, a linear layer brings
    them to it; LAION's weights have none.

    Learned vectors and the table of timesteps start at N(0, 1), linear layers at N(0, 1/fan-in).
    """

    frequencies: Tensor | None

    def __init__(
        self, config: LaionPriorConfig, embed_dim: int, *, clip_text_width: int, timesteps: int
    ):
        super().__init__()
        self.config, self.embed_dim = config, embed_dim
        if clip_text_width != embed_dim:
            self.features_in = nn.Linear(clip_text_width, embed_dim)
        self.null_words = nn.Parameter(torch.randn(config.context, embed_dim))
        self.null_z_t = nn.Parameter(torch.randn(embed_dim))
        self.null_x_t = nn.Parameter(torch.randn(embed_dim))
        self.query = nn.Parameter(torch.randn(embed_dim))
        self.time = nn.Embedding(timesteps, embed_dim)
        self.norm_in = nn.LayerNorm(embed_dim, bias=False) if config.norm_in else nn.Identity()
        self.bias = DistanceBias(config.heads)
        turns = rotary_frequencies(config.head_channels) if config.rotary else None
        self.register_buffer("frequencies", turns)
        self.blocks = nn.ModuleList(
            MultiQueryBlock(
                embed_dim,
                heads=config.heads,
                head_channels=config.head_channels,
                hidden=config.mlp_ratio * embed_dim,
                dropout=config.dropout,
                normformer=config.normformer,
            )
            for _ in range(config.layers)
        )
        self.norm = StableNorm(embed_dim) if config.norm_out else nn.Identity()
        self.out = (
            nn.Linear(embed_dim, embed_dim, bias=False) if config.project_out else nn.Identity()
        )
        for module in self.modules():
            if isinstance(module, nn.Linear):
                init_linear(module)

    def to_x0(self, z_i: Tensor) -> Tensor:
        """What is diffused, for embeddings ``[B, D]``."""
        return z_i * self.scale

    def from_x0(self, x0: Tensor) -> Tensor:
        """The embeddings ``[B, D]`` of ``x0`` ``[B, D]``."""
        return as_embeddings(x0 / self.scale, self.config.embeddings)

    @property
    def scale(self) -> float:
        """What a unit embedding is multiplied by, √D: unit variance; 1 of raw embeddings."""
        return 1.0 if self.config.embeddings == RAW else math.sqrt(self.embed_dim)

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        z_t: Tensor,
        caption: Caption,
        keep: Tensor | None = None,
        keep_x_t: Tensor | None = None,
    ) -> Tensor:
        """Predict x_0.

        Args:
            x_t: noised image embeddings ``[B, D]``, of the scaled x_0 = scale · z_i.
            t: timesteps ``[B]``.
            z_t: text embeddings ``[B, D]``, not scaled.
            caption: CLIP's token features of any length, with the mask.
            keep: ``[B]`` boolean, False puts learned vectors in the place of z_t and of every word
                of that sample. None keeps all.
            keep_x_t: ``[B]`` boolean, the same of the noised embedding. None follows ``keep``: the
                unconditional network of guidance sees neither.

        Returns:
            The predicted x_0 ``[B, D]``, scaled, of the type of ``x_t``.

        Raises:
            ValueError: the caption has no token features.
        """
        if caption.features is None:
            raise ValueError("LAION's prior needs a caption's CLIP token features")
        dtype, mask = self.query.dtype, caption.mask
        noised, z_t, features = x_t.to(dtype), z_t.to(dtype), caption.features.to(dtype)
        if keep is not None:
            mask = mask & keep[:, None]
            z_t = torch.where(keep[:, None], z_t, self.null_z_t)
        keep_x_t = keep if keep_x_t is None else keep_x_t
        if keep_x_t is not None:
            noised = torch.where(keep_x_t[:, None], noised, self.null_x_t)
        query = self.query.expand(len(x_t), -1)
        rest = torch.stack([z_t, self.time(t), noised, query], dim=1)
        x = self.norm_in(torch.cat([self._words(features, mask), rest], dim=1))
        bias = self.bias(x.shape[1])
        for block in self.blocks:
            x = block(x, bias, self.frequencies)
        return self.out(self.norm(x[:, -1])).to(x_t.dtype)

    def _words(self, features: Tensor, mask: Tensor) -> Tensor:
        """``[B, L, D]``: the words that ``mask`` ``[B, ...]`` keeps, the learned ones elsewhere."""
        if features.shape[-1] != self.embed_dim:
            features = self.features_in(features)
        features, mask = features[:, : self.config.context], mask[:, : self.config.context]
        given = features.shape[1]
        nothing = self.null_words.expand(len(features), -1, -1)
        words = torch.where(mask[:, :, None], features.to(nothing.dtype), nothing[:, :given])
        return torch.cat([words, nothing[:, given:]], dim=1)


def build_network(experiment: LaionPriorExperiment, sizes: ParentSizes) -> LaionPrior:
    """See `unclip.stages.row.Row`."""
    model = experiment.model
    embed_dim = model.embed_dim or sizes.embed_dim
    assert embed_dim is not None
    return LaionPrior(
        model,
        embed_dim,
        clip_text_width=model.clip_text_width or sizes.text_width or embed_dim,
        timesteps=experiment.diffusion.steps,
    )


def needs(experiment: LaionPriorExperiment) -> Needs:
    """Both embeddings."""
    return Needs(image=True, text=True)


def dry_step(
    net: LaionPrior, experiment: LaionPriorExperiment, given: Given, share: Share
) -> Tensor:
    """One prediction of x_0."""
    assert given.z_i is not None
    assert given.text is not None
    return net(
        torch.zeros_like(given.z_i),
        some_timesteps(share.batch),
        z_t=given.text.z_t,
        caption=some_caption("clip", experiment.model.context, given, share),
        keep=all_kept(share.batch),
    )
