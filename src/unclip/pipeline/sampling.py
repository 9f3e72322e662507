"""One call of the pipeline: its settings applied, in batches, with its progress as one count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from unclip.common.errors import UserError
from unclip.common.seeding import SampleNoise, derive_seed
from unclip.common.types import Progress
from unclip.diffusion.config import section_counts
from unclip.diffusion.samplers import invert
from unclip.diffusion.schedules import sampling_schedule
from unclip.pipeline.settings import Settings
from unclip.stages._part import Part
from unclip.stages.decoder.sampling import Known, decoder_denoiser, sample_decoder
from unclip.stages.upsampler.sampling import upsample

if TYPE_CHECKING:
    from unclip.pipeline.pipeline import Pipeline


class Generated(NamedTuple):
    """Pictures and what they came of; [...] is [B], or what the method says."""

    image: Tensor  # [..., 3, S, S] in [-1, 1], of the last stage
    z_i: Tensor | None  # [..., D] that the decoder was given; None of a decoder without
    small: Tensor  # [..., 3, s, s], of the decoder

    def grouped(self, count: int) -> Generated:
        """[B * count, ...] as [B, count, ...]."""
        parts = (None if part is None else part.unflatten(0, (-1, count)) for part in self)
        return Generated(*parts)  # type: ignore[arg-type]


class Sampling:
    """The work of one call.

    Args:
        pipeline: Whose parts do it.
        settings: None for the artifacts' own.
        progress: Told of every sampling step of every batch, in all.
        eta: Decode with DDIM and this η; None for the decoder's own sampler.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        settings: Settings | None,
        progress: Progress | None,
        eta: float | None = None,
    ):
        self.pipeline = pipeline
        self.settings = settings = settings or Settings()
        own = pipeline.decoder.sampler
        self._prior = pipeline.prior and settings.apply("prior", pipeline.prior.sampler)
        self.decoder = settings.apply("decoder", own) if eta is None else settings.ddim(own, eta)
        self._upsamplers = [settings.apply("upsampler", part.sampler) for part in self._ups]
        self._progress = progress
        self._done = self._total = 0

    def expect(self, *, draws: int = 0, inversions: int = 0, decodings: int = 0) -> None:
        """Announce numbers of pictures yet to come, so that progress has a total.

        Raises:
            UserError: settings that cannot be, or of a stage that has no part in this.
        """
        pipeline = self.pipeline
        takes_part = {"decoder": True, "prior": draws and pipeline.prior, "upsampler": self._ups}
        self.settings.check([stage for stage, part in takes_part.items() if part])
        inverting = _steps(pipeline.decoder, self.decoder)
        decoding = inverting + sum(_steps(p, s) for p, s in zip(self._ups, self._upsamplers))
        self._total += self._batches(inversions) * inverting + self._batches(decodings) * decoding
        if pipeline.prior:
            self._total += self._batches(draws) * _steps(pipeline.prior, self._prior)

    @property
    def _ups(self) -> list[Part]:
        return self.pipeline.upsamplers

    @torch.no_grad()
    def generate(
        self, captions: Sequence[str], seeds: Sequence[int], *, known: Known | None = None
    ) -> Generated:
        """One picture per (caption, seed), by way of what the decoder takes of the caption."""
        self.expect(draws=len(captions), decodings=len(captions))
        takes = self.pipeline.decoder.embedding
        if takes == "image":
            z_i = self.draw(captions, seeds)
            return self.decode(z_i, seeds, captions=captions, known=known)
        z_t = self.pipeline.embed_captions(captions) if takes == "text" else None
        drawn = self.decode(z_t, seeds, captions=captions, known=known)
        return drawn._replace(z_i=None)

    def draw(self, captions: Sequence[str], seeds: Sequence[int]) -> Tensor:
        """The prior's z_i ``[N, D]`` for each (caption, seed)."""
        prior = self.pipeline.prior
        if prior is None:
            raise UserError(
                "prior: there is none, but the decoder takes image embeddings, which a prior "
                "draws from a caption"
            )
        return self.in_batches(
            len(captions),
            lambda at: prior.draw(
                self.pipeline.clip.model,
                list(captions[at]),
                noise_of(seeds[at], "prior"),
                sampler=self._prior,
                progress=self._tick,
            ),
        )

    def invert(self, image: Tensor, z_i: Tensor) -> Tensor:
        """x_T ``[N, 3, s, s]`` of pictures of the decoder's size and their z_i ``[N, D]``."""
        part, settings = self.pipeline.decoder, self.settings
        return self.in_batches(
            len(image),
            lambda at: invert(
                decoder_denoiser(
                    part.net,
                    z_i=z_i[at],
                    guidance=self.decoder.guidance,
                    **self._text(None, len(z_i[at])),
                ),
                image[at],
                schedule=sampling_schedule(part.chain, self.decoder.steps),
                diffusion=part.chain,
                convention=settings.inversion,
                iterations=settings.iterations,
                clip=self.decoder.clip,
                clip_range=self.decoder.clip_range,
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
        known: Known | None = None,
    ) -> Generated:
        """Pictures ``[N, ...]`` of z_i ``[N, D]``, one per seed, through the upsamplers.

        What is None is dropped, as in part of the decoder's training: without ``captions`` z_i
        alone says what is to be seen, without ``z_i`` the captions do. An empty caption would be
        something it has never met.
        """

        def one(at: slice) -> Tensor:
            return sample_decoder(
                self.pipeline.decoder.net,
                diffusion=self.pipeline.decoder.chain,
                sampler=self.decoder,
                noise=noise_of(seeds[at], "decoder"),
                x_T=None if x_T is None else x_T[at],
                known=known and known._replace(known=known.known[at], keep=known.keep[at]),
                progress=self._tick,
                **self._embedding(None if z_i is None else z_i[at], len(seeds[at])),
                **self._text(None if captions is None else captions[at], len(seeds[at])),
            )

        small = self.in_batches(len(seeds), one)
        return Generated(self._enlarged(small, seeds), z_i, small)

    def _enlarged(self, image: Tensor, seeds: Sequence[int]) -> Tensor:
        for part, sampler in zip(self._ups, self._upsamplers):
            model = part.net.config
            # An upsampler given twice enlarges twice: its network knows no size.
            size = max(model.image_size, image.shape[-1] * model.image_size // model.low_size)

            def one(
                at: slice,
                low: Tensor = image,
                part: Part = part,
                size: int = size,
                how: Any = sampler,
            ) -> Tensor:
                return upsample(
                    part.net,
                    low[at],
                    size=size,
                    diffusion=part.chain,
                    sampler=how,
                    noise=noise_of(seeds[at], f"upsampler {size}"),
                    progress=self._tick,
                )

            image = self.in_batches(len(seeds), one)
        return image

    def _embedding(self, z_i: Tensor | None, count: int) -> dict[str, Any]:
        net, device = self.pipeline.decoder.net, self.pipeline.device
        if z_i is not None or not net.config.use_z_i:
            return {"z_i": z_i}
        nothing = torch.zeros(count, dtype=torch.bool, device=device)
        return {"z_i": torch.zeros(count, net.embed_dim, device=device), "keep_z_i": nothing}

    def _text(self, captions: Sequence[str] | None, count: int) -> dict[str, Tensor]:
        device = self.pipeline.device
        if captions is not None:
            return {"tokens": self.pipeline.decoder.tokens(list(captions), device)}
        nothing = torch.zeros(count, dtype=torch.bool, device=device)
        tokens = self.pipeline.decoder.tokens([""] * count, device)
        return {"tokens": tokens, "keep_text": nothing}

    def _batches(self, count: int) -> int:
        return -(-count // self.settings.batch)

    def in_batches(self, count: int, work: Callable[[slice], Tensor]) -> Tensor:
        """``work`` of each part of ``count`` pictures, put together."""
        size = self.settings.batch
        return torch.cat([work(slice(at, at + size)) for at in range(0, count, size)])

    def _tick(self, done: int, total: int) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._total)


def noise_of(seeds: Sequence[int], stage: str) -> SampleNoise:
    """A stage's noise for each seed."""
    return SampleNoise([derive_seed(stage, seed) for seed in seeds])


def _steps(part: Part, sampler: Any) -> int:
    return part.net.codes if part.diffusion is None else sum(section_counts(sampler.steps))
