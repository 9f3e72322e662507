"""Four ways to tell one decoder what to draw (arXiv 2204.06125, section 5.1 and figure 8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from unclip.common.errors import UserError
from unclip.common.images import table, to_uint8
from unclip.common.types import Progress
from unclip.data.scenes.render import Scene
from unclip.evaluation.probes.probe import Probe, count_right
from unclip.evaluation.statistics.shares import score
from unclip.pipeline.cascade import Cascade, check_stages
from unclip.pipeline.pipeline import Pipeline
from unclip.pipeline.sampling import Generated, Sampling
from unclip.pipeline.settings import Settings, for_each
from unclip.stages._prior.part import PriorPart
from unclip.stages.ar_prior.part import NAME, ArPriorPart, load

SHOWN = 8  # captions on the sheet


class Modes(NamedTuple):
    """The same captions and seeds, drawn in each way."""

    drawn: dict[str, Generated]
    notes: list[str]  # which ways are left out, and why


@torch.no_grad()
def draw_modes(
    pipeline: Pipeline,
    captions: Sequence[str],
    seeds: Sequence[int],
    *,
    ar_prior: PriorPart | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> Modes:
    """Draw by caption only, by z_t in place of z_i, and by z_i of each prior there is.

    All four have the decoder's caption and noise in common. ``ar_prior`` stands beside the
    pipeline's own prior; settings of the prior are for each of them that has them.

    Raises:
        UserError: a decoder without z_i, or settings that a stage cannot be sampled with.
    """
    if pipeline.cascade.decoder.takes != "image":
        raise UserError("decoder: takes no image embeddings, so there is one way to condition it")
    settings = settings or Settings()
    priors = _priors(pipeline.cascade.prior, ar_prior)
    drawing = _drawing(pipeline.cascade, priors, settings, progress)
    sampling = Sampling(pipeline.cascade, settings.without("prior"), progress)
    many, notes = len(captions), []
    drawn = {}
    if pipeline.cascade.decoder.net.config.use_caption:
        sampling.expect(decodings=many)
        drawn["caption only"] = sampling.decode(None, seeds, captions=captions)
    else:
        notes.append("caption only: left out, this decoder reads no captions")
    sampling.expect(decodings=many)
    z_t = pipeline.cascade.embed_captions(captions)
    drawn["z_t in place of z_i"] = sampling.decode(z_t, seeds, captions=captions)
    for name in priors:
        if name in drawing:
            drawn[name] = drawing[name].generate(captions, seeds)
        else:
            notes.append(f"{name}: left out, there is none")
    return Modes(drawn, notes)


def check_settings(cascade: Cascade, ar_prior: PriorPart | None, settings: Settings) -> None:
    """Refuse what neither prior, or another stage, can be sampled with.

    Raises:
        UserError: it names the setting.
    """
    _drawing(cascade, _priors(cascade.prior, ar_prior), settings, None)
    Sampling(cascade, settings.without("prior"), None)


def _drawing(
    cascade: Cascade,
    priors: dict[str, PriorPart | None],
    settings: Settings,
    progress: Progress | None,
) -> dict[str, Sampling]:
    """The cascade with each prior there is, told the settings that this prior has."""
    there = {name: prior for name, prior in priors.items() if prior is not None}
    if not there:
        check_stages(cascade, settings)
    told = for_each(settings, "prior", [prior.sampler for prior in there.values()]) if there else []
    return {
        name: Sampling(replace(cascade, prior=prior), own, progress)
        for (name, prior), own in zip(there.items(), told)
    }


def find_ar_prior(
    folder: Path | None, given: Path | None, pipeline: Pipeline
) -> ArPriorPart | None:
    """The autoregressive prior at ``given``, or else in ``folder``'s ``ar_prior``, if any."""
    path = given or (folder and folder / NAME)
    if path is None or (given is None and not path.is_dir()):
        return None
    return load(path, pipeline.cascade.require_clip(), key=NAME)


def _priors(own: PriorPart | None, ar_prior: PriorPart | None) -> dict[str, PriorPart | None]:
    autoregressive = isinstance(own, ArPriorPart)
    return {
        "AR prior": ar_prior or (own if autoregressive else None),
        "diffusion prior": None if autoregressive else own,
    }


def probe_conditioning(
    pipeline: Pipeline,
    captions: Sequence[str],
    seeds: Sequence[int],
    *,
    scenes: Sequence[Scene] | None = None,
    ar_prior: PriorPart | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> Probe:
    """A column per caption, a row per way; counted by the oracle where ``scenes`` are given."""
    drawn, notes = draw_modes(
        pipeline, captions, seeds, ar_prior=ar_prior, settings=settings, progress=progress
    )
    images = {name: list(to_uint8(found.image)) for name, found in drawn.items()}
    cells = [each[:SHOWN] for each in images.values()]
    records = []
    if scenes is not None:
        records = [
            {"decoder is given": name, **score(count_right(each, scenes), len(captions))}
            for name, each in images.items()
        ]
    return Probe(table(cells, rows=list(images), columns=captions[:SHOWN]), records, notes)
