"""What the page's buttons do: a visitor's inputs to images with their labels. No Gradio here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, get_args

import numpy as np
from torch import Tensor

from unclip.common.errors import UserError
from unclip.common.images import to_uint8
from unclip.common.png_record import Record
from unclip.common.types import Progress
from unclip.demo import inputs
from unclip.diffusion.config import SamplerName, section_counts
from unclip.pipeline.pipeline import Pipeline
from unclip.pipeline.record import SAMPLE, Recorder
from unclip.pipeline.settings import Settings

Array = np.ndarray

MAX_IMAGES = 16  # of one job, which bounds its memory and time
MAX_STEPS = 250
MAX_GUIDANCE = 10.0


class LabelledImage(NamedTuple):
    """An image of a job."""

    image: Array  # uint8 [S, S, 3]
    label: str  # its seed, and where in a row it stands
    record: Record | None = None  # how it was sampled, which its file says


@dataclass(frozen=True)
class Knob:
    """A sampling setting that the page shows."""

    stage: str  # as in `Settings`
    name: str
    own: Any  # the artifact's value
    low: float = 0
    high: float = 0
    choices: tuple[str, ...] = ()  # instead of low and high
    other: Any = None  # where the knob stands at first, if not at its own value

    @property
    def first(self) -> Any:
        """Where it stands at first."""
        return self.own if self.other is None else self.other

    @property
    def label(self) -> str:
        """Its name on the page."""
        return f"{self.stage} {self.name}"

    def check(self, value: Any) -> Any:
        """``value``, if the knob can be turned to it."""
        if self.choices:
            if value not in self.choices:
                raise UserError(f"{self.label}: is none of {', '.join(self.choices)}")
            return value
        if self.name == "steps":
            return inputs.whole(value, self.label, int(self.low), int(self.high))
        return inputs.number(value, self.label, self.low, self.high)


class Studio:
    """A pipeline, as the page uses it.

    Every method returns uint8 images of the last stage. All take the first ``seed``, the
    positions of the ``knobs`` that `captioned` or `inverted` list, and whom to tell of the steps;
    all raise `UserError` with one line for the visitor.
    """

    def __init__(self, pipeline: Pipeline):
        self.pipeline = pipeline
        decoder, prior = pipeline.cascade.decoder, pipeline.cascade.prior
        own = decoder.sampler
        steps, guidance = sum(section_counts(own.steps)), float(own.guidance)
        self.inverted = (
            Knob("decoder", "guidance", guidance, high=max(MAX_GUIDANCE, guidance)),
            Knob("decoder", "steps", steps, 2, max(steps, min(MAX_STEPS, decoder.diffusion.steps))),
        )
        """Where an image is inverted, by DDIM."""
        self.edited = (replace(self.inverted[0], other=1.0), self.inverted[1])
        """The same for edits, which want no guidance (`Settings.unguided`)."""
        given = float(prior.sampler.guidance) if prior else 0.0
        of_prior = Knob("prior", "guidance", given, high=max(MAX_GUIDANCE, given))
        self.inpainted = (*((of_prior,) if prior else ()), *self.inverted)
        """Where a caption is drawn around what is known."""
        self.captioned = (
            *self.inpainted,
            Knob("decoder", "sampler", own.sampler, choices=get_args(SamplerName)),
        )
        """Where a caption is drawn."""

    @property
    def size(self) -> int:
        """Side of the images, in pixels."""
        cascade = self.pipeline.cascade
        sizes = [part.net.config.image_size for part in cascade.upsamplers]
        return max([cascade.decoder.net.config.image_size, *sizes])

    def lacks(self, *, caption: bool) -> str | None:
        """Why images cannot be drawn from a caption, or from an image; None where they can."""
        takes = self.pipeline.cascade.decoder.takes
        if caption and takes == "image" and self.pipeline.cascade.prior is None:
            return (
                "This needs a prior, and the pipeline's folder has none: "
                "its decoder takes image embeddings, which a prior draws from a caption."
            )
        if not caption and takes != "image":
            return (
                "This needs a decoder that takes image embeddings, and the one in the pipeline's "
                "folder takes none: it cannot draw what CLIP sees in an image."
            )
        return None

    def generate(
        self, caption: str, n: float, seed: float, *knobs: Any, progress: Progress
    ) -> list[LabelledImage]:
        """``n`` images of a caption, one per seed."""
        text, seeds = self._caption(caption), inputs.seeds(seed, _count(n))
        settings = _settings(self.captioned, knobs)
        record = Recorder(self.pipeline.cascade, settings, SAMPLE, caption=text)
        found = self.pipeline.generate(
            [text] * len(seeds), seeds, settings=settings, progress=progress
        )
        return _seeded(found.image, seeds, record)

    def vary(
        self, upload: str, eta: float, n: float, seed: float, *knobs: Any, progress: Progress
    ) -> list[LabelledImage]:
        """``n`` variations of an image."""
        seeds, settings = inputs.seeds(seed, _count(n)), _settings(self.inverted, knobs)
        image, eta = inputs.image(upload), inputs.number(eta, "eta", 0, 1)
        record = Recorder(self.pipeline.cascade, settings, "vary", eta=eta)
        found = self.pipeline.vary(image, eta, seeds, settings=settings, progress=progress)
        return _seeded(found.image[0], seeds, record)

    def interpolate(
        self, a: str, b: str, noise: str, n: float, seed: float, *knobs: Any, progress: Progress
    ) -> list[LabelledImage]:
        """``n`` images from one image to another."""
        (first,), settings = inputs.seeds(seed, 1), _settings(self.inverted, knobs)
        record = Recorder(self.pipeline.cascade, settings, "interpolate", noise=noise, seed=first)
        found = self.pipeline.interpolate(
            inputs.image(a, "first image"),
            inputs.image(b, "second image"),
            _count(n),
            noise=noise,
            seed=first,
            settings=settings,
            progress=progress,
        )
        return _row(found.image[0], 1.0, "at", record, label="{:.2f}")

    def edit(
        self,
        upload: str,
        source: str,
        target: str,
        direction: str,
        theta: float,
        n: float,
        seed: float,
        *knobs: Any,
        progress: Progress,
    ) -> list[LabelledImage]:
        """``n`` images from an image towards what one caption says and another does not."""
        (first,), settings = inputs.seeds(seed, 1), _settings(self.edited, knobs)
        image = inputs.image(upload)
        source, target = self._caption(source, "from"), self._caption(target, "to")
        theta = inputs.number(theta, "theta", 0, 1)
        said = {"source": source, "target": target, "direction": direction, "seed": first}
        record = Recorder(self.pipeline.cascade, settings, "edit", **said)
        found = self.pipeline.text_diff(
            image,
            source,
            target,
            theta,
            _count(n),
            direction=direction,
            seed=first,
            settings=settings,
            progress=progress,
        )
        return _row(found.image[0], theta, "theta", record, label="θ {:.2f}")

    def inpaint(
        self,
        editor: dict[str, Any],
        caption: str,
        n: float,
        seed: float,
        *knobs: Any,
        progress: Progress,
    ) -> list[LabelledImage]:
        """``n`` ways to fill what is painted over."""
        seeds = inputs.seeds(seed, _count(n))
        text = self._caption(caption)
        image, keep = inputs.painted(editor)
        count, settings = len(seeds), _settings(self.inpainted, knobs)
        record = Recorder(self.pipeline.cascade, settings, "inpaint", caption=text)
        found = self.pipeline.inpaint(
            [image] * count,
            [keep] * count,
            [text] * count,
            seeds,
            settings=settings,
            progress=progress,
        )
        return _seeded(found.image, seeds, record)

    def _caption(self, text: str, name: str = "caption") -> str:
        """A caption that is read to its end."""
        found = inputs.caption(text, name)
        tokenizer = self.pipeline.cascade.tokenizer
        count = tokenizer.count(found)
        if count > tokenizer.context:
            raise UserError(
                f"{name}: has {count} tokens, of which {tokenizer.context} are read; shorten it"
            )
        return found


def _count(n: float) -> int:
    return inputs.whole(n, "images", 1, MAX_IMAGES)


def _settings(knobs: Sequence[Knob], values: Sequence[Any]) -> Settings:
    """What differs from the artifacts' own."""
    changes: dict[str, dict[str, Any]] = {}
    for knob, value in zip(knobs, values, strict=True):
        if knob.check(value) != knob.own:
            changes.setdefault(knob.stage, {})[knob.name] = value
    return Settings(changes)


def _seeded(images: Tensor, seeds: Sequence[int], record: Recorder) -> list[LabelledImage]:
    """Images of successive seeds."""
    return [
        LabelledImage(image, f"seed {seed}", record(seed=seed))
        for image, seed in zip(to_uint8(images), seeds, strict=True)
    ]


def _row(
    images: Tensor, end: float, name: str, record: Recorder, *, label: str
) -> list[LabelledImage]:
    """Images at even steps of ``name`` from 0 to ``end``."""
    found = []
    for image, place in zip(to_uint8(images), np.linspace(0, end, len(images))):
        said = record(**{name: float(place)})
        found.append(LabelledImage(image, f"{label.format(place)}, seed {said['seed']}", said))
    return found
