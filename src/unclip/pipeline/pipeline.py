"""Caption to picture: CLIP's text encoder, prior, decoder, upsamplers, from their artifacts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unclip import artifacts
from unclip.diffusion.configs import DiffusionConfig, SamplerConfig
from unclip.models.clip import FrozenClip, Tokenizer
from unclip.models.configs import (
    DecoderConfig,
    DiffusionPriorConfig,
    PriorSamplerConfig,
    UpsamplerConfig,
)
from unclip.models.decoder import Decoder
from unclip.models.diffusion_prior import DiffusionPrior
from unclip.models.sampling import prior_caption, sample_decoder, sample_prior, upsample
from unclip.models.upsampler import Upsampler
from unclip.seeding import SampleNoise, derive_seed
from unclip.types import Progress, UserError

STAGES = ("prior", "decoder", "upsampler")
"""Whose sampler settings `Settings` can change."""


@dataclass(frozen=True)
class Part:
    """A stage ready to sample."""

    net: Any
    diffusion: DiffusionConfig
    sampler: Any  # SamplerConfig; the prior's has candidates too
    tokenize: Tokenizer | None = None


@dataclass(frozen=True)
class Settings:
    """Changes to the artifacts' own sampler settings, by stage: ``{"decoder": {"steps": 50}}``."""

    changes: dict[str, dict[str, Any]] = field(default_factory=dict)

    def apply(self, stage: str, sampler: Any, diffusion: DiffusionConfig) -> Any:
        """``sampler`` with the changes of ``stage``, validated."""
        changed = replace(sampler, **self.changes.get(stage, {}))
        try:
            changed.validate()
        except UserError as error:
            raise UserError(f"{stage} {error}") from None
        return changed


class Generated(NamedTuple):
    """What came of a caption at each stage."""

    image: Tensor  # [B, 3, S, S] in [-1, 1], of the last stage
    z_i: Tensor  # [B, D]
    small: Tensor  # [B, 3, s, s], of the decoder


class Pipeline:
    """The whole cascade, without Lightning. Seeds are explicit; nothing else is random."""

    def __init__(
        self,
        clip: FrozenClip,
        prior: Part,
        decoder: Part,
        upsamplers: Sequence[Part] = (),
        device: torch.device | str = "cpu",
    ):
        self.clip = clip
        self.prior = prior
        self.decoder = decoder
        self.upsamplers = list(upsamplers)
        self.device = torch.device(device)
        for part in (prior, decoder, *upsamplers):
            part.net.to(self.device).eval().requires_grad_(False)
        clip.model.to(self.device)

    @classmethod
    def load(cls, folder: Path | str, device: torch.device | str = "cpu") -> Pipeline:
        """From a folder with ``clip``, ``prior``, ``decoder`` and any ``upsampler*`` in it.

        Each is an artifact, or a run's folder with one inside. Upsamplers are applied in the order
        of their sizes.
        """
        root = Path(folder)
        if not root.is_dir():
            raise UserError(f"pipeline={folder}: no such folder; `make quickstart` makes one")
        missing = [name for name in ("clip", "prior", "decoder") if not (root / name).is_dir()]
        if missing:
            raise UserError(f"pipeline={folder}: {', '.join(missing)} missing in it")
        ups = sorted(p for p in root.glob("upsampler*") if p.is_dir())
        return cls.from_artifacts(
            clip=str(root / "clip"),
            prior=root / "prior",
            decoder=root / "decoder",
            upsamplers=ups,
            device=device,
        )

    @classmethod
    def from_artifacts(
        cls,
        *,
        clip: str,
        prior: Path | str,
        decoder: Path | str,
        upsamplers: Sequence[Path | str] = (),
        device: torch.device | str = "cpu",
    ) -> Pipeline:
        """From separate artifacts; those of different CLIPs refuse each other."""
        frozen = artifacts.load_clip(clip)
        return cls(
            frozen,
            _load_prior(prior, frozen),
            _load_decoder(decoder, frozen),
            sorted((_load_upsampler(u) for u in upsamplers), key=lambda p: p.net.config.image_size),
            device,
        )

    @torch.no_grad()
    def generate(
        self,
        captions: Sequence[str],
        seeds: Sequence[int],
        *,
        settings: Settings | None = None,
        progress: Progress | None = None,
    ) -> Generated:
        """One picture per (caption, seed); a picture depends on its own pair alone.

        ``progress`` counts the sampling steps of all stages together.
        """
        if len(captions) != len(seeds):
            raise ValueError(f"{len(captions)} captions, {len(seeds)} seeds")
        settings = settings or Settings()
        parts = [self.prior, self.decoder, *self.upsamplers]
        names = ["prior", "decoder", *["upsampler"] * len(self.upsamplers)]
        samplers = [settings.apply(n, p.sampler, p.diffusion) for n, p in zip(names, parts)]
        report = _Together(progress, [_steps(s) for s in samplers])

        clip_tokens = self.clip.model.tokenize(list(captions)).to(self.device)
        z_t = self.clip.model.encode_text(clip_tokens).z_t
        own = self._tokens(self.prior, captions)
        z_i = sample_prior(
            self.prior.net,
            z_t=z_t,
            caption=prior_caption(self.prior.net, self.clip.model, clip_tokens, own),
            diffusion=self.prior.diffusion,
            sampler=samplers[0],
            noise=_noise(seeds, "prior"),
            candidates=samplers[0].candidates,
            progress=report.part(0),
        )
        small = sample_decoder(
            self.decoder.net,
            z_i=z_i,
            tokens=self._tokens(self.decoder, captions),
            diffusion=self.decoder.diffusion,
            sampler=samplers[1],
            noise=_noise(seeds, "decoder"),
            progress=report.part(1),
        )
        image = small
        for k, part in enumerate(self.upsamplers):
            image = upsample(
                part.net,
                image,
                size=part.net.config.image_size,
                diffusion=part.diffusion,
                sampler=samplers[2 + k],
                noise=_noise(seeds, f"upsampler {part.net.config.image_size}"),
                progress=report.part(2 + k),
            )
        return Generated(image, z_i, small)

    def _tokens(self, part: Part, captions: Sequence[str]) -> Tensor:
        assert part.tokenize is not None
        return part.tokenize(list(captions)).to(self.device)


def _noise(seeds: Sequence[int], stage: str) -> SampleNoise:
    return SampleNoise([derive_seed(stage, seed) for seed in seeds])


def _steps(sampler: SamplerConfig) -> int:
    return sum(int(n) for n in str(sampler.steps).split(","))


class _Together:
    """Progress of several stages as one count."""

    def __init__(self, progress: Progress | None, steps: list[int]):
        self._progress = progress
        self._steps = steps

    def part(self, index: int) -> Progress | None:
        """The progress callback of one stage."""
        progress = self._progress
        if progress is None:
            return None
        before, total = sum(self._steps[:index]), sum(self._steps)
        return lambda done, _: progress(before + done, total)


def _load_prior(path: Path | str, clip: FrozenClip) -> Part:
    artifact = artifacts.expect(
        artifacts.describe(path, key="prior"), ("diffusion_prior",), key="prior"
    )
    artifacts.check_embedding(artifact, clip, key="prior")
    model = artifact.section("model", DiffusionPriorConfig)
    net = DiffusionPrior(model, clip.model.embed_dim, clip.model.text_width)
    artifact.load_into(net)
    return Part(
        net,
        artifact.section("diffusion", DiffusionConfig),
        artifact.section("sampler", PriorSamplerConfig),
        Tokenizer(model.context),
    )


def _load_decoder(path: Path | str, clip: FrozenClip) -> Part:
    artifact = artifacts.expect(
        artifacts.describe(path, key="decoder"), ("decoder",), key="decoder"
    )
    artifacts.check_embedding(artifact, clip, key="decoder")
    model = artifact.section("model", DecoderConfig)
    net = Decoder(model, clip.model.embed_dim)
    artifact.load_into(net)
    return Part(
        net,
        artifact.section("diffusion", DiffusionConfig),
        artifact.section("sampler", SamplerConfig),
        Tokenizer(model.text.context),
    )


def _load_upsampler(path: Path | str) -> Part:
    artifact = artifacts.expect(
        artifacts.describe(path, key="upsampler"), ("upsampler",), key="upsampler"
    )
    net = Upsampler(artifact.section("model", UpsamplerConfig))
    artifact.load_into(net)
    return Part(
        net,
        artifact.section("diffusion", DiffusionConfig),
        artifact.section("sampler", SamplerConfig),
    )
