"""The diffusion prior: a causal transformer that predicts the unnoised CLIP image embedding.

Source: arXiv 2204.06125, section 2.2. Shapes: B batch, D embedding, L caption tokens, X width of
CLIP's token features, W width. The sequence is L caption tokens, z_t, the timestep, the noised z_i
and a learned query, whose output is the prediction.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from unclip.common.types import Caption
from unclip.embeddings.config import RAW
from unclip.embeddings.lengths import as_embeddings
from unclip.nn.timestep import TimestepMLP
from unclip.nn.transformer import Read, Transformer, init_linear
from unclip.stages._prior.dry_step import some_caption
from unclip.stages.diffusion_prior.config import DiffusionPriorConfig, DiffusionPriorExperiment
from unclip.stages.experiment import ParentSizes
from unclip.stages.interface import Given, Needs, Share, all_kept, some_timesteps

PIXEL_VARIANCE = 0.28890625  # of ImageNet pixels in [-1, 1]; 17.2² / 1024
AFTER_CAPTION = 4  # z_t, timestep, noised z_i, query


class DiffusionPrior(nn.Module):
    """Predicts x_0, the scaled image embedding, from its noised version, the caption and z_t.

    With ``standardise`` x_0 has zero mean and unit variance in each of the D numbers instead, by
    buffers ``mean`` and ``std`` that are fitted to data before training (as Karlo's weights have).

    The caption is either the prior's own (``caption: bpe``: a token table, a learned embedding per
    padding position, no masking) or the frozen CLIP's token features (``caption: clip``: a linear
    projection, padding positions masked from attention).

    Tables and the query start at N(0, .02²), positions at N(0, .01²), projections at
    N(0, 1/fan-in), the output at N(0, .02²), biases at zero; blocks as `Transformer` says.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, config: DiffusionPriorConfig, embed_dim: int, clip_text_width: int | None = None
    ):
        super().__init__()
        self.config = config
        self.embed_dim = embed_dim
        width = config.width
        if config.caption == "bpe":
            self.table = nn.Embedding(config.vocabulary, width)
            self.padding = nn.Parameter(torch.empty(config.context, width))
        else:
            if clip_text_width is None:
                raise ValueError("caption=clip needs the width of CLIP's token features")
            self.features_in = nn.Linear(clip_text_width, width)
        self.z_t_in = nn.Linear(embed_dim, width)
        self.time = TimestepMLP(width, width)
        self.x_t_in = nn.Linear(embed_dim, width)
        self.query = nn.Parameter(torch.empty(width))
        self.positions = nn.Parameter(torch.empty(config.context + AFTER_CAPTION, width))
        self.transformer = Transformer(
            width=width,
            layers=config.layers,
            heads=config.heads,
            causal=True,
            dropout=config.dropout,
        )
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, embed_dim)
        if config.standardise:
            self.register_buffer("mean", torch.zeros(embed_dim))
            self.register_buffer("std", torch.ones(embed_dim))
        self._init_weights()

    def _init_weights(self) -> None:
        if self.config.caption == "bpe":
            nn.init.normal_(self.table.weight, std=0.02)
            nn.init.normal_(self.padding, std=0.02)
        else:
            init_linear(self.features_in)
        for linear in (self.z_t_in, self.x_t_in, self.time.hidden, self.time.out):
            init_linear(linear)
        nn.init.normal_(self.query, std=0.02)
        nn.init.normal_(self.positions, std=0.01)
        nn.init.normal_(self.out.weight, std=0.02)
        nn.init.zeros_(self.out.bias)

    def to_x0(self, z_i: Tensor) -> Tensor:
        """What is diffused, for embeddings ``[B, D]``."""
        if self.config.standardise:
            return (z_i - self.mean) / self.std
        return z_i * self.scale

    def from_x0(self, x0: Tensor) -> Tensor:
        """The embeddings ``[B, D]`` of ``x0`` ``[B, D]``."""
        if self.config.standardise:
            x0 = x0 * self.std + self.mean
        return as_embeddings(x0, self.config.embeddings)

    @property
    def scale(self) -> float:
        """What a unit embedding is multiplied by: 17.2 at D = 1024; 1 of raw embeddings.

        It gives the embedding's D numbers the variance of pixels, for which the noise schedule was
        made.
        """
        return 1.0 if self.config.embeddings == RAW else math.sqrt(PIXEL_VARIANCE * self.embed_dim)

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        z_t: Tensor,
        caption: Caption,
        keep: Tensor | None = None,
    ) -> Tensor:
        """Predict x_0.

        Args:
            x_t: noised image embeddings ``[B, D]``, of the scaled x_0 = scale · z_i.
            t: timesteps ``[B]``.
            z_t: text embeddings ``[B, D]``; multiplied by ``scale`` in here.
            caption: own tokens or CLIP's features, as the config says, with the mask, all of
                length L = ``config.context``.
            keep: ``[B]`` boolean, False drops the text from that sample: z_t becomes zeros and the
                caption all padding, while x_t stays. None keeps all.

        Returns:
            The predicted x_0 ``[B, D]``, scaled, of the type of ``x_t``.

        Raises:
            ValueError: the caption has another length or is of the other kind.
        """
        text, seen = self._text(z_t, caption, keep)
        sequence = torch.cat([text, self._noised(x_t, t)], dim=1) + self.positions
        query = self.transformer(sequence, seen)[:, -1]
        return self.out(self.norm(query)).to(x_t.dtype)

    def condition(self, *, z_t: Tensor, caption: Caption, keep: Tensor | None = None) -> Read:
        """What `denoise` needs to know of the text; arguments as in `forward`.

        The network is causal and the text comes first, so nothing of it depends on x_t or t.
        """
        text, seen = self._text(z_t, caption, keep)
        text = text + self.positions[: text.shape[1]]
        return self.transformer.read(text, AFTER_CAPTION - 1, seen)

    def denoise(self, x_t: Tensor, t: Tensor, conditioning: Read) -> Tensor:
        """`forward` for a text that was read before, to rounding."""
        x = self._noised(x_t, t)
        x = x + self.positions[-x.shape[1] :]
        query = self.transformer.resume(x, conditioning)[:, -1]
        return self.out(self.norm(query)).to(x_t.dtype)

    def _text(
        self, z_t: Tensor, caption: Caption, keep: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """``[B, L + 1, W]``, positions not yet added, and the whole sequence's mask over keys."""
        mask = caption.mask
        if keep is not None:
            mask = mask & keep[:, None]
            z_t = torch.where(keep[:, None], z_t, 0)
        words = self._embed_caption(caption, mask)
        z_t = self.z_t_in((z_t * self.scale).to(self.z_t_in.weight.dtype))
        seen = None
        if self.config.caption == "clip":
            seen = torch.cat([mask, mask.new_ones(len(mask), AFTER_CAPTION)], dim=1)[:, None, None]
        return torch.cat([words, z_t[:, None]], dim=1), seen

    def _noised(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The timestep, the noised z_i and the query ``[B, 3, W]``, positions not yet added."""
        query = self.query.expand(len(x_t), -1)
        return torch.stack([self.time(t), self.x_t_in(x_t.to(self.x_t_in.weight.dtype)), query], 1)

    def _embed_caption(self, caption: Caption, mask: Tensor) -> Tensor:
        """``[B, L, W]``, positions not yet added."""
        kind = self.config.caption
        source = caption.tokens if kind == "bpe" else caption.features
        if source is None:
            wanted = "tokens" if kind == "bpe" else "CLIP token features"
            raise ValueError(f"a prior with caption={kind} needs a caption's {wanted}")
        if source.shape[1] != self.config.context:
            raise ValueError(
                f"captions of {source.shape[1]} tokens: the prior takes {self.config.context}"
            )
        if kind == "clip":
            return self.features_in(source.to(self.features_in.weight.dtype))
        return torch.where(mask[:, :, None], self.table(source), self.padding)


def build_network(experiment: DiffusionPriorExperiment, sizes: ParentSizes) -> DiffusionPrior:
    """See `unclip.stages.row.Row`."""
    model = experiment.model
    if model.caption == "clip" and sizes.context not in (None, model.context):
        model = replace(model, context=sizes.context)
    embed_dim = model.embed_dim or sizes.embed_dim
    assert embed_dim is not None
    return DiffusionPrior(model, embed_dim, model.clip_text_width or sizes.text_width)


def needs(experiment: DiffusionPriorExperiment) -> Needs:
    """Both embeddings."""
    return Needs(image=True, text=True)


def some_text(experiment: DiffusionPriorExperiment, given: Given, share: Share) -> dict[str, Any]:
    """What `DiffusionPrior.condition` is given in a simulated step."""
    assert given.text is not None
    model = experiment.model
    return {
        "z_t": given.text.z_t,
        "caption": some_caption(model.caption, model.context, given, share),
        "keep": all_kept(share.batch),
    }


def dry_step(
    net: DiffusionPrior, experiment: DiffusionPriorExperiment, given: Given, share: Share
) -> Tensor:
    """One prediction of x_0."""
    assert given.z_i is not None
    text = some_text(experiment, given, share)
    return net(torch.zeros_like(given.z_i), some_timesteps(share.batch), **text)
