"""The 64 px diffusion decoder: GLIDE's network with two paths for the CLIP image embedding.

Sources: arXiv 2112.10741 (GLIDE) and arXiv 2204.06125, section 2.1. Shapes: B batch, D embedding,
L caption tokens, C U-Net channels, K extra tokens from z_i, X width of the caption transformer.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import NamedTuple

import torch
from torch import Tensor, nn

from unclip.embeddings.config import RAW
from unclip.nn.caption import CaptionEncoder
from unclip.nn.unet import UNet
from unclip.stages.decoder.config import DecoderConfig, DecoderExperiment
from unclip.stages.experiment import ParentSizes
from unclip.stages.interface import Given, Needs, Share, all_kept, some_timesteps, some_tokens


class Conditioning(NamedTuple):
    """Caption and z_i as the U-Net takes them: computed once for all steps of a sampling."""

    time_offset: Tensor  # [B, 4C], added to the time embedding
    tokens: Tensor  # [B, L + K, X] further keys and values of every attention


class Decoder(nn.Module):
    """Predicts ε and the variance fraction v of a noised image, given z_i and the caption.

    A unit z_i is multiplied by √D inside, so that its numbers have unit variance. Dropped, z_i
    is a zero vector, or with ``null_z_i: learned`` a learned one (which starts at zero); the
    biases of its two projections act all the same. A dropped caption is all padding.
    """

    def __init__(self, config: DecoderConfig, embed_dim: int, *, learns_variance: bool = True):
        super().__init__()
        self.config = config
        self.embed_dim = embed_dim
        unet = config.unet
        context_width = config.text.width
        self.unet = UNet(
            in_channels=3,
            out_channels=6 if learns_variance else 3,
            channels=unet.channels,
            blocks=unet.blocks,
            multiples=unet.multiples,
            attention_levels=[
                level
                for level in range(len(unet.multiples))
                if config.image_size >> level in unet.attention
            ],
            head_channels=unet.head_channels,
            dropout=unet.dropout,
            context_width=context_width,
            groups=unet.norm_groups,
            time=unet.time,
        )
        if config.use_caption:
            self.text = CaptionEncoder(**asdict(config.text))
            self.text_to_time = nn.Linear(context_width, 4 * unet.channels)
        if config.use_z_i:
            self.z_i_to_time = nn.Linear(embed_dim, 4 * unet.channels)
            self.z_i_to_tokens = nn.Linear(embed_dim, config.clip_tokens * context_width)
            if config.null_z_i == "learned":
                self.null_z_i = nn.Parameter(torch.zeros(embed_dim))

    def condition(
        self,
        *,
        z_i: Tensor | None = None,
        tokens: Tensor | None = None,
        mask: Tensor | None = None,
        keep_z_i: Tensor | None = None,
        keep_text: Tensor | None = None,
    ) -> Conditioning:
        """What the U-Net needs to know of caption and z_i; arguments as in `forward`.

        A decoder built without one of the two conditions ignores its arguments.
        """
        offsets, contexts = [], []
        if self.config.use_caption:
            if tokens is None or mask is None:
                raise ValueError("this decoder needs caption tokens and their mask")
            if keep_text is not None:
                mask = mask & keep_text[:, None]
            words = self.text(tokens, mask)
            offsets.append(self.text_to_time(words[:, -1]))
            contexts.append(words)
        if self.config.use_z_i:
            if z_i is None:
                raise ValueError("this decoder needs z_i")
            z_i = self._scale_z_i(z_i, keep_z_i)
            offsets.append(self.z_i_to_time(z_i))
            contexts.append(self.z_i_to_tokens(z_i).unflatten(1, (self.config.clip_tokens, -1)))
        return Conditioning(sum(offsets[1:], offsets[0]), torch.cat(contexts, dim=1))

    def _scale_z_i(self, z_i: Tensor, keep: Tensor | None) -> Tensor:
        """z_i at unit variance (raw: as it is), or what stands for it where ``keep`` is False."""
        scale = 1.0 if self.config.embeddings == RAW else math.sqrt(self.embed_dim)
        z_i = z_i.to(self.z_i_to_time.weight.dtype) * scale
        if keep is None:
            return z_i
        null = self.null_z_i if self.config.null_z_i == "learned" else z_i.new_zeros(())
        return torch.where(keep[:, None], z_i, null)

    def denoise(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """``x_t`` ``[B, 3, H, W]`` at ``t`` ``[B]`` to ``[B, 6, H, W]``: ε, then v."""
        return self.unet(x_t, t, time_offset=conditioning.time_offset, context=conditioning.tokens)

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        z_i: Tensor | None = None,
        tokens: Tensor | None = None,
        mask: Tensor | None = None,
        keep_z_i: Tensor | None = None,
        keep_text: Tensor | None = None,
    ) -> Tensor:
        """`condition`, then `denoise`: one training step's forward.

        Args:
            x_t: noised images ``[B, 3, H, W]``.
            t: timesteps ``[B]``.
            z_i: image embeddings ``[B, D]``.
            tokens: captions ``[B, L]``, L exactly ``config.text.context``.
            mask: ``[B, L]`` boolean, True = a real token.
            keep_z_i: ``[B]`` boolean, False drops z_i from that sample; None keeps all.
            keep_text: ``[B]`` boolean, False drops the caption of that sample; None keeps all.

        Returns:
            ``[B, 6, H, W]`` of the type of ``x_t``: ε, then the variance fraction v.

        Raises:
            ValueError: a condition is missing, or of another length or size than the network's.
        """
        conditioning = self.condition(
            z_i=z_i, tokens=tokens, mask=mask, keep_z_i=keep_z_i, keep_text=keep_text
        )
        return self.denoise(x_t, t, conditioning)


def build_network(experiment: DecoderExperiment, sizes: ParentSizes) -> Decoder:
    """See `unclip.stages.row.Row`."""
    embed_dim = experiment.model.embed_dim or sizes.embed_dim
    assert embed_dim is not None
    learns = experiment.diffusion.learns_variance
    return Decoder(experiment.model, embed_dim, learns_variance=learns)


def needs(experiment: DecoderExperiment) -> Needs:
    """The embedding that it is given, if any."""
    if not experiment.model.use_z_i:
        return Needs()
    text = experiment.embedding == "text"
    return Needs(image=not text, text=text)


def dry_step(net: Decoder, experiment: DecoderExperiment, given: Given, share: Share) -> Tensor:
    """One prediction of a whole image."""
    model = experiment.model
    length = model.text.context
    return net(
        torch.zeros(share.batch, 3, model.image_size, model.image_size),
        some_timesteps(share.batch),
        z_i=given.z_i if given.text is None else given.text.z_t,
        tokens=some_tokens(share.batch, length),
        mask=all_kept(share.batch, length),
        keep_z_i=all_kept(share.batch),
        keep_text=all_kept(share.batch),
    )
