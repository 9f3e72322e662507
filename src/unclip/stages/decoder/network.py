"""The 64 px diffusion decoder: GLIDE's network with two paths for the CLIP image embedding.

Sources: arXiv 2112.10741 (GLIDE) and arXiv 2204.06125, section 2.1. Shapes: B batch, D embedding,
L caption tokens, C U-Net channels, K extra tokens from z_i, X width of the caption transformer.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unclip.common.types import TextFeatures
from unclip.embeddings.config import RAW
from unclip.nn.attention import KeysValues
from unclip.nn.caption import CaptionEncoder
from unclip.nn.unet import UNet
from unclip.stages._diffusion.known import CHANNELS, with_known
from unclip.stages.decoder.config import DecoderConfig, DecoderExperiment
from unclip.stages.experiment import ParentSizes
from unclip.stages.interface import Given, Needs, Share, all_kept, some_timesteps, some_tokens


class Conditioning(NamedTuple):
    """Caption and z_i as the U-Net takes them: computed once for all steps of a sampling."""

    time_offset: Tensor  # [B, 4C], added to the time embedding
    tokens: Tensor  # [B, L + K, X] further keys and values of every attention
    mask: Tensor | None = None  # [B, L + K] True = may be seen; None where all may
    known: Tensor | None = None  # [B, 4, H, W] of `known_channels`; None where nothing is known
    projected: list[KeysValues | None] | None = None  # the tokens as each layer attends to them

    def followed_by(self, other: Conditioning) -> Conditioning:
        """Caption and z_i of this batch, then those of another."""
        mask = None
        if self.mask is not None and other.mask is not None:
            mask = torch.cat([self.mask, other.mask])
        offset = torch.cat([self.time_offset, other.time_offset])
        return Conditioning(offset, torch.cat([self.tokens, other.tokens]), mask)


class Decoder(nn.Module):
    """Predicts ε and the variance fraction v of a noised image, given z_i and the caption.

    A unit z_i is multiplied by √D inside, so that its numbers have unit variance. Dropped, z_i
    is a zero vector, or with ``null_z_i: learned`` a learned one (which starts at zero); the
    biases of its two projections act all the same. A dropped caption is all padding.

    With ``caption: clip``, as in Karlo, there is no caption transformer: the frozen CLIP's token
    features, projected and normalised, are the context, and the projected z_t is added to the time
    embedding. A dropped caption then is z_t = 0, its tokens hidden.
    """

    def __init__(
        self,
        config: DecoderConfig,
        embed_dim: int,
        clip_text_width: int | None = None,
        *,
        learns_variance: bool = True,
    ):
        super().__init__()
        self.config = config
        self.embed_dim = embed_dim
        unet = config.unet
        context_width = config.text.width
        self.unet = UNet(
            in_channels=3 + (CHANNELS if config.inpaint else 0),
            out_channels=6 if learns_variance else 3,
            channels=unet.channels,
            blocks=unet.blocks,
            multiples=unet.multiples,
            attention_levels=unet.attention_levels(config.image_size),
            head_channels=unet.head_channels,
            dropout=unet.dropout,
            context_width=context_width,
            groups=unet.norm_groups,
            time=unet.time,
        )
        if config.use_caption and config.caption == "clip":
            if clip_text_width is None:
                raise ValueError("caption=clip needs the width of CLIP's token features")
            self.features_in = nn.Linear(clip_text_width, context_width)
            self.features_norm = nn.LayerNorm(context_width)
            self.z_t_to_time = nn.Linear(embed_dim, 4 * unet.channels)
        elif config.use_caption:
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
        text: TextFeatures | None = None,
        keep_z_i: Tensor | None = None,
        keep_text: Tensor | None = None,
    ) -> Conditioning:
        """What the U-Net needs to know of caption and z_i; arguments as in `forward`.

        A decoder built without one of the two conditions ignores its arguments.
        """
        config = self.config
        offsets, contexts, seen = [], [], None
        if config.use_caption:
            if config.caption == "clip":
                offset, words, mask = self._read_features(text, keep_text)
            else:
                offset, words, mask = self._read_tokens(tokens, mask, keep_text)
            offsets.append(offset)
            contexts.append(words)
            seen = mask if config.context_mask else None
        if config.use_z_i:
            if z_i is None:
                raise ValueError("this decoder needs z_i")
            null = self.null_z_i if config.null_z_i == "learned" else None
            z_i = self._scaled(z_i, self.z_i_to_time, keep_z_i, null)
            offsets.append(self.z_i_to_time(z_i))
            contexts.append(self.z_i_to_tokens(z_i).unflatten(1, (config.clip_tokens, -1)))
            seen = None if seen is None else F.pad(seen, (0, config.clip_tokens), value=True)
        return Conditioning(sum(offsets[1:], offsets[0]), torch.cat(contexts, dim=1), seen)

    def _read_tokens(
        self, tokens: Tensor | None, mask: Tensor | None, keep: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What is added to time, the context and its mask, of own tokens."""
        if tokens is None or mask is None:
            raise ValueError("this decoder needs caption tokens and their mask")
        if keep is not None:
            mask = mask & keep[:, None]
        words = self.text(tokens, mask)
        return self.text_to_time(words[:, -1]), words, mask

    def _read_features(
        self, text: TextFeatures | None, keep: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The same of what the frozen CLIP made of the caption."""
        if text is None:
            raise ValueError("this decoder needs CLIP's token features of the caption")
        words = self.features_norm(self.features_in(text.tokens.to(self.features_in.weight.dtype)))
        mask = text.mask if keep is None else text.mask & keep[:, None]
        return self.z_t_to_time(self._scaled(text.z_t, self.z_t_to_time, keep)), words, mask

    def _scaled(
        self, z: Tensor, layer: nn.Linear, keep: Tensor | None, null: Tensor | None = None
    ) -> Tensor:
        """``z`` at unit variance (raw: as it is), as ``layer`` takes it.

        Where ``keep`` is False ``null`` stands for it, or zeros.
        """
        scale = 1.0 if self.config.embeddings == RAW else math.sqrt(self.embed_dim)
        z = z.to(layer.weight.dtype) * scale
        if keep is None:
            return z
        return torch.where(keep[:, None], z, z.new_zeros(()) if null is None else null)

    def project(self, conditioning: Conditioning) -> Conditioning:
        """The same with its tokens projected: once for all steps of a sampling."""
        return conditioning._replace(projected=self.unet.project(conditioning.tokens))

    def denoise(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """``x_t`` ``[B, 3, H, W]`` at ``t`` ``[B]`` to ``[B, 6, H, W]``: ε, then v."""
        if self.config.inpaint:
            x_t = with_known(x_t, conditioning.known)
        return self.unet(
            x_t,
            t,
            time_offset=conditioning.time_offset,
            context=conditioning.projected or conditioning.tokens,
            context_mask=conditioning.mask,
        )

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        z_i: Tensor | None = None,
        tokens: Tensor | None = None,
        mask: Tensor | None = None,
        text: TextFeatures | None = None,
        keep_z_i: Tensor | None = None,
        keep_text: Tensor | None = None,
        known: Tensor | None = None,
    ) -> Tensor:
        """`condition`, then `denoise`: one training step's forward.

        Args:
            x_t: noised images ``[B, 3, H, W]``.
            t: timesteps ``[B]``.
            z_i: image embeddings ``[B, D]``.
            tokens: captions ``[B, L]``, L exactly ``config.text.context``.
            mask: ``[B, L]`` boolean, True = a real token.
            text: the captions by the frozen CLIP, of any length; with ``caption: clip``, in place
                of ``tokens`` and ``mask``.
            keep_z_i: ``[B]`` boolean, False drops z_i from that sample; None keeps all.
            keep_text: ``[B]`` boolean, False drops the caption of that sample; None keeps all.
            known: ``[B, 4, H, W]`` of `known_channels`, for networks with ``inpaint``; None where
                nothing is known.

        Returns:
            ``[B, 6, H, W]`` of the type of ``x_t``: ε, then the variance fraction v.

        Raises:
            ValueError: a condition is missing, or of another length or size than the network's.
        """
        conditioning = self.condition(
            z_i=z_i, tokens=tokens, mask=mask, text=text, keep_z_i=keep_z_i, keep_text=keep_text
        )
        return self.denoise(x_t, t, conditioning._replace(known=known))


def build_network(experiment: DecoderExperiment, sizes: ParentSizes) -> Decoder:
    """See `unclip.stages.row.Row`."""
    model, learns = experiment.model, experiment.diffusion.learns_variance
    embed_dim = model.embed_dim or sizes.embed_dim or 0
    assert embed_dim or not (model.use_z_i or model.caption == "clip")  # only GLIDE knows no CLIP
    width = model.clip_text_width or sizes.text_width
    return Decoder(model, embed_dim, width, learns_variance=learns)


def needs(experiment: DecoderExperiment) -> Needs:
    """The embedding and the caption that it is given, if any."""
    model, z_t = experiment.model, experiment.embedding == "text"
    return Needs(image=model.use_z_i and not z_t, text=z_t or model.caption == "clip")


def some_conditions(experiment: DecoderExperiment, given: Given, share: Share) -> dict[str, Any]:
    """What `Decoder.condition` is given in a simulated step."""
    length = experiment.model.text.context
    return {
        "z_i": given.text.z_t if given.z_i is None and given.text is not None else given.z_i,
        "tokens": some_tokens(share.batch, length),
        "mask": all_kept(share.batch, length),
        "text": given.text,
    }


def dry_step(net: Decoder, experiment: DecoderExperiment, given: Given, share: Share) -> Tensor:
    """One prediction of a whole image."""
    side = experiment.model.image_size
    return net(
        torch.zeros(share.batch, 3, side, side),
        some_timesteps(share.batch),
        **some_conditions(experiment, given, share),
        keep_z_i=all_kept(share.batch),
        keep_text=all_kept(share.batch),
    )
