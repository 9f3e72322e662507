"""One call of the pipeline: its settings applied, in batches, with its progress as one count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from unclip.common.errors import UserError
from unclip.common.seeding import SampleNoise, derive_seed
from unclip.common.terminal import say
from unclip.common.types import Progress
from unclip.pipeline.cascade import Cascade, check_stages
from unclip.pipeline.execution import compiled_folder
from unclip.pipeline.inference import inference
from unclip.pipeline.settings import Settings
from unclip.stages._diffusion.known import Known

KnownAt = Callable[[int], Known]
"""What images of so many pixels a side must show."""


class Generated(NamedTuple):
    """Images and the embeddings they were generated from; [...] is [B], or what the method says."""

    image: Tensor  # [..., 3, S, S] in [-1, 1], of the last stage
    z_i: Tensor | None  # [..., D] that the decoder was given; None of a decoder without
    small: Tensor  # [..., 3, s, s], of the decoder

    def grouped(self, count: int) -> Generated:
        """[B * count, ...] as [B, count, ...]."""
        parts = (None if part is None else part.unflatten(0, (-1, count)) for part in self)
        return Generated(*parts)  # type: ignore[arg-type]


class Sampling:
    """The work of one call: what it samples with, and how far it is.

    Args:
        cascade: The stages that do it.
        settings: None for the artifacts' own.
        progress: Called after each sampling step, counted over all batches.
        eta: Decode with DDIM and this η; None for the decoder's own sampler.

    Raises:
        UserError: settings that a stage cannot be sampled with, or of a stage that is not there.
    """

    def __init__(
        self,
        cascade: Cascade,
        settings: Settings | None,
        progress: Progress | None,
        eta: float | None = None,
    ):
        self.cascade = cascade
        if not isinstance(settings, Settings | None):
            raise UserError(
                f"settings={settings!r}: must be Settings(...) of unclip.pipeline.settings"
            )
        self.settings = settings = settings or Settings()
        check_stages(cascade, settings)
        own = cascade.decoder
        self._prior = cascade.prior and settings.apply("prior", cascade.prior)
        self.decoder = settings.apply("decoder", own) if eta is None else settings.ddim(own, eta)
        self._upsamplers = [settings.apply("upsampler", part) for part in cascade.upsamplers]
        self._progress = progress
        self._done = self._total = 0

    def expect(self, *, draws: int = 0, inversions: int = 0, decodings: int = 0) -> None:
        """Announce numbers of images yet to come, so that progress has a total.

        Raises:
            UserError: settings of the prior, where it draws nothing.
        """
        prior, upsamplers = self.cascade.prior, self.cascade.upsamplers
        if not draws and (key := self.settings.first_of("prior")):
            raise UserError(f"{key}: the prior is not used here")
        inverting = self.cascade.decoder.steps(self.decoder)
        decoding = inverting + sum(
            part.steps(how) for part, how in zip(upsamplers, self._upsamplers)
        )
        self._total += self._batches(inversions) * inverting + self._batches(decodings) * decoding
        if prior:
            self._total += self._batches(draws) * prior.steps(self._prior)

    @inference
    def generate(
        self, captions: Sequence[str], seeds: Sequence[int], *, known: KnownAt | None = None
    ) -> Generated:
        """One image per (caption, seed), by way of what the decoder takes of the caption."""
        self.expect(draws=len(captions), decodings=len(captions))
        takes = self.cascade.decoder.takes
        if takes == "image":
            z_i = self.draw(captions, seeds)
            return self.decode(z_i, seeds, captions=captions, known=known)
        z_t = self.cascade.embed_captions(captions) if takes == "text" else None
        found = self.decode(z_t, seeds, captions=captions, known=known)
        return found._replace(z_i=None)

    def draw(self, captions: Sequence[str], seeds: Sequence[int]) -> Tensor:
        """The prior's z_i ``[N, D]`` for each (caption, seed)."""
        prior = self.cascade.prior
        if prior is None:
            raise UserError(
                "prior: this cascade has none, and its decoder needs the image embedding that a "
                "prior samples from a caption; add a prior"
            )
        return self.in_batches(
            len(captions),
            lambda at: prior.draw(
                self.cascade.require_clip().model,
                list(captions[at]),
                noise_of(seeds[at], "prior"),
                sampler=self._prior,
                progress=self._tick,
            ),
        )

    def invert(self, image: Tensor, z_i: Tensor) -> Tensor:
        """x_T ``[N, 3, s, s]`` of images of the decoder's size and their z_i ``[N, D]``."""
        return self.in_batches(
            len(image),
            lambda at: self.cascade.decoder.invert(
                image[at],
                z_i[at],
                sampler=self.decoder,
                convention=self.settings.inversion,
                iterations=self.settings.iterations,
                progress=self._tick,
            ),
        )

    def decode(
        self,
        z_i: Tensor | None,
        seeds: Sequence[int],
        *,
        captions: Sequence[str] | None = None,
        x_T: Tensor | None = None,
        known: KnownAt | None = None,
    ) -> Generated:
        """Images ``[N, ...]`` of z_i ``[N, D]``, one per seed, through the upsamplers.

        Conditions that are None are dropped (see `DecoderPart.draw`).
        """
        there = known and known(self.cascade.decoder.net.config.image_size)
        small = self.in_batches(
            len(seeds),
            lambda at: self.cascade.decoder.draw(
                None if z_i is None else z_i[at],
                None if captions is None else captions[at],
                noise_of(seeds[at], "decoder"),
                sampler=self.decoder,
                x_T=None if x_T is None else x_T[at],
                known=there and rows_of(there, at),
                progress=self._tick,
            ),
        )
        image = self._enlarged(small, seeds, captions, known)
        if self.cascade.compilation and (line := self.cascade.compilation.report()):
            say(f"unclip: {line}; kept in {compiled_folder()}", error=True)
        return Generated(image, z_i, small)

    def _enlarged(
        self,
        image: Tensor,
        seeds: Sequence[int],
        captions: Sequence[str] | None,
        known: KnownAt | None,
    ) -> Tensor:
        for part, how in zip(self.cascade.upsamplers, self._upsamplers):
            size, low = part.size_from(image.shape[-1]), image
            parts = []
            there = known(size) if known and part.net.config.inpaint else None
            for at in self._slices(len(seeds)):
                noise = noise_of(seeds[at], f"upsampler {size}")
                drawn = part.draw(
                    low[at],
                    noise,
                    size=size,
                    captions=captions and captions[at],
                    known=there and rows_of(there, at),
                    sampler=how,
                    progress=self._tick,
                )
                parts.append(drawn)
            image = torch.cat(parts)
        return image

    def _batches(self, count: int) -> int:
        return -(-count // self.settings.batch)

    def _slices(self, count: int) -> list[slice]:
        size = self.settings.batch
        return [slice(at, at + size) for at in range(0, count, size)]

    def in_batches(self, count: int, work: Callable[[slice], Tensor]) -> Tensor:
        """``work`` of each batch of ``count`` images, put together."""
        return torch.cat([work(at) for at in self._slices(count)])

    def _tick(self, done: int, total: int) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._total)


def rows_of(known: Known, at: slice) -> Known:
    """Those of a batch."""
    return known._replace(known=known.known[at], keep=known.keep[at])


def noise_of(seeds: Sequence[int], stage: str) -> SampleNoise:
    """A stage's noise for each seed."""
    return SampleNoise([derive_seed(stage, seed) for seed in seeds])
