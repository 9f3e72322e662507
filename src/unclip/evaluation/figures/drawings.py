"""How the paper's figures (arXiv 2204.06125) are drawn with a trained cascade."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from unclip.common.errors import UserError
from unclip.common.images import Array, table, to_uint8
from unclip.common.types import Progress
from unclip.data.scenes.captions import noun
from unclip.data.scenes.dataset import Prompt, single_object_prompts
from unclip.data.scenes.render import COLOURS, Scene
from unclip.evaluation.probes.conditioning import probe_conditioning
from unclip.evaluation.probes.guidance import probe_guidance
from unclip.evaluation.probes.latents import originals, probe_pca, probe_typographic
from unclip.evaluation.probes.pairs import binding_outcomes, binding_records, probe_pairs
from unclip.evaluation.probes.probe import Probe
from unclip.evaluation.probes.prompts import attack, binding_prompts, images_of, stacked_prompts
from unclip.pipeline.manipulations import Latents, embed
from unclip.pipeline.pipeline import Pipeline
from unclip.pipeline.sampling import Generated, Sampling
from unclip.pipeline.settings import Settings
from unclip.stages.ar_prior.part import ArPriorPart

# The commands in `unclip.evaluation.figures.figures` name the same numbers.
VARIATIONS = 6  # of each image
WAY = 7  # images from one to the other
THETAS, THETA_MAX = 5, 0.4
CAPTIONS = 8
SCALES = (1.0, 2.0, 3.0, 4.0)  # of the decoder's guidance, the paper's
SAMPLES = 16  # of one caption


@dataclass(frozen=True)
class FigureInputs:
    """A cascade, and what it draws from.

    ``scenes`` are those of ``images``; none if the images are somebody's own.
    """

    pipeline: Pipeline
    images: list[Array]
    scenes: list[Scene]
    shapes: Sequence[str]  # of the scenes the cascade was trained on
    ar_prior: ArPriorPart | None = None
    seed: int = 0
    settings: Settings = field(default_factory=Settings)
    progress: Progress | None = None
    _latents: list[Latents] = field(default_factory=list)  # shared by the copies of `telling`

    @property
    def latents(self) -> Latents:
        """Of ``images``, inverted once for all figures."""
        if not self._latents:
            self._latents.append(self.pipeline.encode(self.images, **self.how))
        return self._latents[0]

    def telling(self, without: Sequence[str], *, every_prior: bool) -> FigureInputs:
        """The same with the settings that one figure has a use for.

        Args:
            without: Stages and settings that it has none for.
            every_prior: Keep settings that only ``ar_prior`` has, not the cascade's own prior.
        """
        settings, prior = self.settings.without(*without), self.pipeline.cascade.prior
        if prior is not None and not every_prior:
            foreign = (
                n for n in settings.changes.get("prior", {}) if not hasattr(prior.sampler, n)
            )
            settings = settings.without(*(f"prior.{name}" for name in foreign))
        return replace(self, settings=settings)

    def seeds(self, n: int) -> list[int]:
        """``n`` seeds from ``seed`` on."""
        return [self.seed + k for k in range(n)]

    @property
    def how(self) -> dict[str, Any]:
        """What every drawing is told."""
        return {"settings": self.settings, "progress": self.progress}


def variations(studio: FigureInputs) -> Probe:
    """Figure 3: η = 1."""
    seeds = studio.seeds(VARIATIONS)
    found = studio.pipeline.vary(studio.latents, 1.0, seeds, **studio.how)
    return _beside(studio.images, found, [f"seed {seed}" for seed in seeds])


def interpolations(studio: FigureInputs) -> Probe:
    """Figure 4: two pairs, x_T between the two inversions, then one draw."""
    pairs = [(k, k + 1) for k in range(0, min(4, len(studio.images)) - 1, 2)]
    if not pairs:
        raise UserError("--images: an interpolation needs two; give another")
    first, second = (Latents(*(part[list(end)] for part in studio.latents)) for end in zip(*pairs))
    cells, rows = [], []
    for noise in ("slerp", "fixed"):
        found = studio.pipeline.interpolate(
            first, second, WAY, noise=noise, seed=studio.seed, **studio.how
        )
        for pair, drawn in zip(pairs, to_uint8(found.image)):
            a, b = originals([studio.images[k] for k in pair], len(drawn[0]))
            cells.append([a, *drawn, b])
            rows.append(f"x_T {noise}" + (f" (seed {studio.seed})" if noise == "fixed" else ""))
    columns = ["from", *(f"{k / (WAY - 1):.2f}" for k in range(WAY)), "to"]
    return Probe(table(cells, rows=rows, columns=columns), [])


def text_diffs(studio: FigureInputs) -> Probe:
    """Figure 5: each scene towards another colour."""
    rows, cells = [], []
    how = studio.how | {"settings": studio.settings.unguided()}
    for k, scene in enumerate(_own(studio, "unclip edit")):
        source, target = edit_captions(scene)
        found = studio.pipeline.text_diff(
            studio.images[k], source, target, THETA_MAX, THETAS, seed=studio.seed, **how
        )
        drawn = to_uint8(found.image[0])
        cells.append([*originals([studio.images[k]], len(drawn[0])), *drawn])
        rows.append(f"{source} to {target}")
    columns = ["original", *(f"theta {THETA_MAX * k / (THETAS - 1):.2f}" for k in range(THETAS))]
    return Probe(table(cells, rows=rows, columns=columns), [])


def edit_captions(scene: Scene) -> tuple[str, str]:
    """What a scene of one object shows, and the same in the next colour that it can have."""
    (item,) = scene.items
    colours = [c for c in COLOURS if c != scene.background]
    following = colours[(colours.index(item.colour) + 5) % len(colours)]
    return noun(item), noun(replace(item, colour=following))


def typographic(studio: FigureInputs) -> Probe:
    """Figure 6: a scene with the names of other shapes."""
    scene, words, labels = attack(_own(studio, "unclip probe typographic")[0], studio.shapes)
    (image,) = images_of([scene])
    return probe_typographic(
        studio.pipeline, image, words, labels, seeds=studio.seeds(4), **studio.how
    )


def _own(studio: FigureInputs, command: str) -> list[Scene]:
    if not studio.scenes:
        raise UserError(f"captions of --images are not known; use `{command}`")
    return studio.scenes


def components(studio: FigureInputs) -> Probe:
    """Figure 7."""
    return probe_pca(studio.pipeline, studio.images, seed=studio.seed, **studio.how)


def signals(studio: FigureInputs) -> Probe:
    """Figure 8: captions of held-out scenes."""
    prompts = single_object_prompts(CAPTIONS, studio.seed, studio.shapes)
    return probe_conditioning(
        studio.pipeline,
        [prompt.caption for prompt in prompts],
        studio.seeds(CAPTIONS),
        scenes=[prompt.scene for prompt in prompts],
        ar_prior=studio.ar_prior,
        **studio.how,
    )


def guidance(studio: FigureInputs) -> Probe:
    """Figure 9: one caption, a seed per column."""
    prompt = prompt_of(studio)
    return probe_guidance(
        studio.pipeline,
        [prompt.caption] * CAPTIONS,
        studio.seeds(CAPTIONS),
        decoder_scales=SCALES,
        scenes=[prompt.scene] * CAPTIONS,
        **studio.how,
    )


def prompt_of(studio: FigureInputs) -> Prompt:
    """The caption of `guidance`."""
    return single_object_prompts(1, studio.seed, studio.shapes)[0]


def stacked(studio: FigureInputs) -> Probe:
    """Figure 14: sixteen samples of one caption."""
    prompts = stacked_prompts(SAMPLES, studio.shapes)
    return probe_pairs(studio.pipeline, prompts, studio.seeds(SAMPLES), studio.shapes, **studio.how)


@torch.no_grad()
def rebuilt(studio: FigureInputs) -> Probe:
    """Figure 15: images of two objects from their z_i alone."""
    prompts = binding_prompts(4, studio.seed, studio.shapes)
    images = images_of([prompt.scene for prompt in prompts])
    sampling = Sampling(studio.pipeline.cascade, studio.settings, studio.progress)
    seeds = studio.seeds(VARIATIONS)
    sampling.expect(decodings=len(images) * len(seeds))
    z_i = embed(sampling, images).repeat_interleave(len(seeds), dim=0)
    found = sampling.decode(z_i, seeds * len(images))
    repeated = [prompt for prompt in prompts for _ in seeds]
    outcomes = binding_outcomes(repeated, list(to_uint8(found.image)))
    records = binding_records(repeated, outcomes, studio.shapes)
    sheet = _beside(images, found.grouped(len(seeds)), [f"seed {seed}" for seed in seeds]).sheet
    return Probe(sheet, records)


def _beside(images: Sequence[Array], found: Generated, columns: Sequence[str]) -> Probe:
    """Images, each with those ``[B, n, ...]`` that came of it."""
    drawn = to_uint8(found.image)
    left = originals(images, drawn.shape[-2])
    cells = [[original, *row] for original, row in zip(left, drawn)]
    return Probe(table(cells, rows=[""] * len(cells), columns=["original", *columns]), [])
