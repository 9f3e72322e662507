"""Caption to picture: CLIP's text encoder, prior, decoder, upsamplers, from their artifacts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unclip import artifacts
from unclip.models.clip import FrozenClip
from unclip.models.sampling import sample_decoder, upsample
from unclip.pipeline.parts import Part, load_decoder, load_prior, load_upsampler
from unclip.seeding import SampleNoise, derive_seed
from unclip.types import Progress, UserError

STAGES = ("prior", "decoder", "upsampler")
"""Whose sampler settings `Settings` can change."""


@dataclass(frozen=True)
class Settings:
    """Changes to the artifacts' own sampler settings, by stage: ``{"decoder": {"steps": 50}}``."""

    changes: dict[str, dict[str, Any]] = field(default_factory=dict)

    def apply(self, stage: str, sampler: Any) -> Any:
        """``sampler`` with the changes of ``stage``, validated."""
        changes = self.changes.get(stage, {})
        known = [f.name for f in fields(sampler)]
        for name in changes:
            if name not in known:
                raise UserError(f"{stage} {name}: this {stage} has no such setting; it has {known}")
        changed = replace(sampler, **changes)
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
            load_prior(prior, frozen),
            load_decoder(decoder, frozen),
            sorted((load_upsampler(u) for u in upsamplers), key=lambda p: p.net.config.image_size),
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
        samplers = [settings.apply(n, p.sampler) for n, p in zip(names, parts)]
        report = _Together(progress, [_steps(p, s) for p, s in zip(parts, samplers)])

        z_i = self.prior.draw(
            self.clip.model,
            list(captions),
            _noise(seeds, "prior"),
            sampler=samplers[0],
            progress=report.part(0),
        )
        small = sample_decoder(
            self.decoder.net,
            z_i=z_i,
            tokens=self.decoder.tokens(list(captions), self.device),
            diffusion=self.decoder.chain,
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
                diffusion=part.chain,
                sampler=samplers[2 + k],
                noise=_noise(seeds, f"upsampler {part.net.config.image_size}"),
                progress=report.part(2 + k),
            )
        return Generated(image, z_i, small)


def _noise(seeds: Sequence[int], stage: str) -> SampleNoise:
    return SampleNoise([derive_seed(stage, seed) for seed in seeds])


def _steps(part: Part, sampler: Any) -> int:
    if part.diffusion is None:
        return part.net.codes
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
