"""The upsamplers: convolutional ADM U-Nets that see the low-resolution image beside x_t.

Source: arXiv 2204.06125, section 2.1 and table 3; conditioning by concatenation as in
arXiv 2104.07636.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unclip.diffusion.process import at_least_float32
from unclip.nn.caption import CaptionEncoder
from unclip.nn.timestep import TimestepMLP
from unclip.nn.unet import UNet
from unclip.stages._diffusion.known import CHANNELS, with_known
from unclip.stages.experiment import ParentSizes
from unclip.stages.interface import Given, Needs, Share, all_kept, some_timesteps, some_tokens
from unclip.stages.upsampler.config import UpsamplerConfig, UpsamplerExperiment


class Upsampler(nn.Module):
    """Predicts ε and the variance fraction v of a noised image, given the image at low resolution.

    By default there is no attention, so a network trained on crops runs at any size divisible by
    2^(levels − 1). The low-resolution image is enlarged bicubically (a = −0.5, antialiased, which
    changes nothing when enlarging) or bilinearly; one that already has the size of x_t is used as
    it is.

    With ``use_caption``, as in GLIDE (arXiv 2112.10741), the outputs of a caption transformer are
    further keys and values of every attention, and the last one is added to the time embedding.

    With ``noise_levels`` the condition may be noised, and the network is told to which timestep
    (noise-conditioning augmentation of cascaded diffusion, arXiv 2106.15282, section 4; not in the
    paper).

    With ``last_step`` a second network of the same shape, ``last``, denoises the samples at t = 0
    (Karlo's is fine-tuned with adversarial and perceptual losses, which this framework has not).
    """

    def __init__(self, config: UpsamplerConfig, *, learns_variance: bool = True):
        super().__init__()
        self.config = config
        unet = config.unet
        shape: dict[str, Any] = dict(
            in_channels=6 + (CHANNELS if config.inpaint else 0),
            out_channels=6 if learns_variance else 3,
            channels=unet.channels,
            blocks=unet.blocks,
            multiples=unet.multiples,
            dropout=unet.dropout,
            groups=unet.norm_groups,
            time=unet.time,
            attention_levels=unet.attention_levels(config.image_size),
            head_channels=unet.head_channels,
            context_width=config.text.width if config.use_caption else None,
        )
        self.unet = UNet(**shape)
        if config.last_step:
            self.last = UNet(**shape)
        if config.noise_levels:
            self.level = TimestepMLP(unet.channels, 4 * unet.channels)
        if config.use_caption:
            self.text = CaptionEncoder(**asdict(config.text))
            self.text_to_time = nn.Linear(config.text.width, 4 * unet.channels)

    def read(self, tokens: Tensor, mask: Tensor, keep: Tensor | None = None) -> Tensor:
        """Captions ``[B, L]``, their mask True = a real token, as words ``[B, L, X]``.

        Where ``keep`` ``[B]`` is False the caption is dropped: all padding.
        """
        return self.text(tokens, mask if keep is None else mask & keep[:, None])

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        low: Tensor,
        level: Tensor | None = None,
        words: Tensor | None = None,
        known: Tensor | None = None,
    ) -> Tensor:
        """Denoise.

        Args:
            x_t: noised images ``[B, 3, H, W]``.
            t: timesteps ``[B]``.
            low: low-resolution images ``[B, 3, h, w]`` in [-1, 1], noised if ``level`` says so.
            level: timestep ``[B]`` of the noise in ``low``; for networks with ``noise_levels``.
            words: captions ``[B, L, X]`` by `read`; for networks with ``use_caption``.
            known: ``[B, 4, H, W]`` of `known_channels`, for networks with ``inpaint``; None where
                nothing is known.

        Returns:
            ``[B, 6, H, W]`` of the type of ``x_t``: ε, then the variance fraction v unless the
            variance is fixed.

        Raises:
            ValueError: H or W is not divisible by 2^(levels − 1); ``level`` or ``words`` is
                missing, or given to a network that cannot be told.
        """
        if (level is not None) != bool(self.config.noise_levels):
            raise ValueError("level: needed by networks with noise_levels, and by no others")
        if (words is not None) != self.config.use_caption:
            raise ValueError("words: needed by networks with use_caption, and by no others")
        offset = None if level is None else self.level(level)
        if words is not None:
            of_text = self.text_to_time(words[:, -1])
            offset = of_text if offset is None else offset + of_text
        low = self.enlarged(low, x_t.shape[2:])
        both = with_known(x_t, known) if self.config.inpaint else x_t
        both = torch.cat([both, low.to(x_t.dtype)], dim=1)
        given = {"time_offset": offset, "context": words}
        if not self.config.last_step:
            return self.unet(both, t, **given)
        now = t == 0
        if not torch.is_grad_enabled():  # all samples of a sampling step have the same t
            if not now.any():
                return self.unet(both, t, **given)
            if now.all():
                return self.last(both, t, **given)
        first, last = (net(both, t, **given) for net in (self.unet, self.last))
        return torch.where(now[:, None, None, None], last, first)

    def enlarged(self, low: Tensor, size: Sequence[int]) -> Tensor:
        """``low`` ``[B, 3, h, w]`` at ``size`` (H, W), as `forward` takes it too."""
        if low.shape[2:] == torch.Size(size):
            return low
        low = at_least_float32(low)
        if self.config.enlarge == "bilinear":
            return F.interpolate(low, size=list(size), mode="bilinear")
        return F.interpolate(low, size=list(size), mode="bicubic", antialias=True)


def as_8_bit(image: Tensor) -> Tensor:
    """Images in [-1, 1] with the values that 8 bits can hold."""
    return ((image + 1) * 127.5).round() / 127.5 - 1


def build_network(experiment: UpsamplerExperiment, sizes: ParentSizes) -> Upsampler:
    """See `unclip.stages.row.Row`."""
    return Upsampler(experiment.model, learns_variance=experiment.diffusion.learns_variance)


def needs(experiment: UpsamplerExperiment) -> Needs:
    """Nothing: it has no parent."""
    return Needs()


def dry_step(net: Upsampler, experiment: UpsamplerExperiment, given: Given, share: Share) -> Tensor:
    """One prediction of a crop."""
    model = experiment.model
    side = round(model.image_size * experiment.data.crop_fraction)
    low = side * model.low_size // model.image_size
    return net(
        torch.zeros(share.batch, 3, side, side),
        some_timesteps(share.batch),
        torch.zeros(share.batch, 3, low, low),
        some_timesteps(share.batch) if model.noise_levels else None,
        some_words(net, share),
    )


def some_words(net: Upsampler, share: Share) -> Tensor | None:
    """Captions as `Upsampler.read` gives them, for a simulated step."""
    if not net.config.use_caption:
        return None
    length = net.config.text.context
    return net.read(some_tokens(share.batch, length), all_kept(share.batch, length))
