"""What a trained prior of either kind offers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from unclip.common.seeding import SampleNoise
from unclip.common.types import Caption, Progress, TextFeatures
from unclip.embeddings.clip import Clip
from unclip.embeddings.tokens import Tokenizer
from unclip.stages._part import Part
from unclip.stages._prior.null_text import NullText
from unclip.stages._prior.sampling import prior_caption


@dataclass(frozen=True)
class PriorPart(Part):
    """A trained prior."""

    tokenize: Tokenizer  # of its own caption encoder
    null: NullText | None = field(default=None, kw_only=True)  # what guidance goes away from

    def draw(
        self,
        clip: Clip,
        captions: list[str],
        noise: SampleNoise,
        *,
        sampler: Any = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """Image embeddings z_i ``[B, D]`` for ``captions``.

        Args:
            clip: The frozen CLIP that the prior was trained with, on the network's device.
            captions: B texts.
            noise: One stream per caption.
            sampler: None for the prior's own.
            progress: Called after each sampling step.

        Raises:
            UserError: the sampler needs x0_errors that have not been fitted for its steps.
        """
        text, caption = self.read(clip, captions)
        return self.sample(
            text.z_t, caption, noise, sampler=sampler or self.sampler, progress=progress
        )

    def read(self, clip: Clip, captions: list[str]) -> tuple[TextFeatures, Caption]:
        """The captions as CLIP sees them, and as the network reads them."""
        text = clip.encode_text(clip.tokenize(captions).to(self.device))
        tokens = self.tokenize(captions).to(self.device)
        return text, prior_caption(self.net, text, tokens)

    def sample(
        self,
        z_t: Tensor,
        caption: Caption,
        noise: SampleNoise,
        *,
        sampler: Any,
        progress: Progress | None = None,
    ) -> Tensor:
        """As `draw`, for captions that CLIP has encoded: z_t ``[B, D]``."""
        raise NotImplementedError

    @torch.no_grad()
    def forward_once(self, clip: Clip) -> None:
        """One forward pass as in training, of one sample: its operations can be counted."""
        raise NotImplementedError
