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
from unclip.pipeline.parts import (
    Part,
    decoder_embedding,
    describe_decoder,
    load_decoder,
    load_prior,
    load_upsampler,
)
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
    z_i: Tensor | None  # [B, D], of the prior; None without one
    small: Tensor  # [B, 3, s, s], of the decoder


class Pipeline:
    """The whole cascade, without Lightning. Seeds are explicit; nothing else is random.

    A prior is there if and only if the decoder takes image embeddings.
    """

    def __init__(
        self,
        clip: FrozenClip,
        prior: Part | None,
        decoder: Part,
        upsamplers: Sequence[Part] = (),
        device: torch.device | str = "cpu",
    ):
        if (prior is None) == (decoder.embedding == "image"):
            raise UserError(
                "prior: none is given, but the decoder takes image embeddings, which a prior draws"
                if prior is None
                else "prior: the decoder takes no image embeddings, so a prior has no part in it"
            )
        self.clip = clip
        self.prior = prior
        self.decoder = decoder
        self.upsamplers = list(upsamplers)
        self.device = torch.device(device)
        for part in (*([prior] if prior else []), decoder, *upsamplers):
            part.net.to(self.device).eval().requires_grad_(False)
        clip.model.to(self.device)

    @classmethod
    def load(cls, folder: Path | str, device: torch.device | str = "cpu") -> Pipeline:
        """From a folder with ``clip``, ``prior``, ``decoder`` and any ``upsampler*`` in it.

        Each is an artifact, or a run's folder with one inside. Upsamplers are applied in the order
        of their sizes. A decoder that takes no image embeddings needs no ``prior``.
        """
        root = Path(folder)
        if not root.is_dir():
            raise UserError(f"pipeline={folder}: no such folder; `make quickstart` makes one")
        missing = [name for name in ("clip", "prior", "decoder") if not (root / name).is_dir()]
        if (
            missing == ["prior"]
            and decoder_embedding(describe_decoder(root / "decoder")) != "image"
        ):
            missing = []
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
        prior: Path | str | None,
        decoder: Path | str,
        upsamplers: Sequence[Path | str] = (),
        device: torch.device | str = "cpu",
    ) -> Pipeline:
        """From separate artifacts; those of different CLIPs refuse each other.

        ``prior`` is not looked at where the decoder takes no image embeddings.
        """
        frozen = artifacts.load_clip(clip)
        drawing = load_decoder(decoder, frozen)
        if drawing.embedding != "image":
            prior = None
        return cls(
            frozen,
            None if prior is None else load_prior(prior, frozen),
            drawing,
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
        if self.prior is None and settings.changes.get("prior"):
            raise UserError(f"prior {next(iter(settings.changes['prior']))}: there is no prior")
        stages = [("decoder", self.decoder), *(("upsampler", part) for part in self.upsamplers)]
        if self.prior is not None:
            stages.insert(0, ("prior", self.prior))
        samplers = [settings.apply(name, part.sampler) for name, part in stages]
        report = _Together(progress, [_steps(p, s) for (_, p), s in zip(stages, samplers)])
        turns = iter([(s, report.part(k)) for k, s in enumerate(samplers)])

        z_i = None
        if self.prior is not None:
            sampler, count = next(turns)
            z_i = self.prior.draw(
                self.clip.model,
                list(captions),
                _noise(seeds, "prior"),
                sampler=sampler,
                progress=count,
            )
        sampler, count = next(turns)
        small = sample_decoder(
            self.decoder.net,
            z_i=self._z_t(captions) if self.decoder.embedding == "text" else z_i,
            tokens=self.decoder.tokens(list(captions), self.device),
            diffusion=self.decoder.chain,
            sampler=sampler,
            noise=_noise(seeds, "decoder"),
            progress=count,
        )
        image = small
        for part, (sampler, count) in zip(self.upsamplers, turns):
            model = part.net.config
            # An upsampler given twice enlarges twice: its network knows no size.
            size = max(model.image_size, image.shape[-1] * model.image_size // model.low_size)
            image = upsample(
                part.net,
                image,
                size=size,
                diffusion=part.chain,
                sampler=sampler,
                noise=_noise(seeds, f"upsampler {size}"),
                progress=count,
            )
        return Generated(image, z_i, small)

    def _z_t(self, captions: Sequence[str]) -> Tensor:
        clip = self.clip.model
        return clip.encode_text(clip.tokenize(list(captions)).to(self.device)).z_t


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
