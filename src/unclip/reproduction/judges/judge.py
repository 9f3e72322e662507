"""What every judge is told and returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from unclip.common import artifacts
from unclip.common.errors import UserError
from unclip.common.fields import as_dataclass
from unclip.common.images import Array, grid
from unclip.data.config import ScenesConfig
from unclip.data.scenes.dataset import Prompt, single_object_prompts, two_object_prompts
from unclip.data.scenes.render import Scene, draw
from unclip.evaluation.probes.prompts import SIZE, binding_prompts
from unclip.pipeline.cascade import Cascade, load_cascade
from unclip.pipeline.pipeline import Pipeline
from unclip.pipeline.sampling import Sampling
from unclip.pipeline.settings import Settings
from unclip.reproduction.judges.table import check_options
from unclip.stages.row import CLIP, DECODER, PCA, PRIOR, UPSAMPLER

SHOWN = 24  # images on a sheet


@dataclass(frozen=True)
class Inputs:
    """One arm to judge."""

    parts: Mapping[str, Path]  # kind to the folder of its run
    options: Mapping[str, Any]
    n: int
    seed: int  # of captions, scenes and noise: the same for every arm of a claim
    device: str

    def check(self, judge: str) -> None:
        """Refuse options that ``judge`` does not have."""
        check_options(judge, dict(self.options))

    def part(self, kind: str) -> Path:
        """The folder of the arm's part of a kind.

        Raises:
            UserError: it has none.
        """
        if kind not in self.parts:
            raise UserError(f"the arm has no {kind}, which its judge needs")
        return self.parts[kind]

    def cascade(self) -> Cascade:
        """The arm's parts as a cascade."""
        upsampler = self.parts.get(UPSAMPLER)
        return load_cascade(
            clip=self.parts.get(CLIP),
            prior=self.parts.get(PRIOR),
            decoder=self.part(DECODER),
            upsamplers=[upsampler] if upsampler else [],
            pca=self.parts.get(PCA),
            device=self.device,
        )

    def pipeline(self) -> Pipeline:
        """The same with the facade's methods."""
        return Pipeline(self.cascade())

    def settings(self) -> Settings:
        """The sampler settings that the options change."""
        return Settings(changes=dict(self.options.get("settings", {})))

    def sampling(self, cascade: Cascade) -> Sampling:
        """One call of a cascade with these settings."""
        return Sampling(cascade, self.settings(), None)

    def scenes_config(self) -> ScenesConfig:
        """The kinds of scenes that the arm was trained on.

        Raises:
            UserError: it was trained on something else.
        """
        path = self.parts.get(DECODER) or next(iter(self.parts.values()))
        data = artifacts.describe(path).config.get("data", {})
        if data.get("source") != "scenes":
            raise UserError(f"{path}: was trained on {data.get('source')}; scenes alone are judged")
        return as_dataclass(ScenesConfig, data["scenes"], f"{path}: ", "data.scenes.")

    def prompts(self) -> list[Prompt]:
        """Held-out captions with their scenes."""
        shapes, kind = self.scenes_config().shapes, self.options.get("prompts", "single")
        makers = {
            "single": single_object_prompts,
            "pairs": two_object_prompts,
            "binding": binding_prompts,
        }
        if kind != "single" and self.scenes_config().max_objects == 1:
            raise UserError("the arm was trained on scenes of one object")
        return makers[kind](self.n, self.seed, shapes)


class Measured(NamedTuple):
    """What a judge noted of each caption, and images to look at."""

    records: list[dict[str, Any]]
    sheet: Image.Image | None = None


def images_of(scenes: Sequence[Scene]) -> list[Array]:
    """Images of scenes, as probes start from them."""
    return [draw(scene, SIZE) for scene in scenes]


def sheet_of(images: Sequence[Array], captions: Sequence[str]) -> Image.Image:
    """The first of some images with their captions."""
    return grid(list(images[:SHOWN]), list(captions[:SHOWN]), columns=8, side=96)
