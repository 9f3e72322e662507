"""Four ways to tell one decoder what to draw (arXiv 2204.06125, section 5.1 and figure 8)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from unclip.common import artifacts
from unclip.common.errors import UserError
from unclip.common.images import table, to_uint8
from unclip.common.types import Progress
from unclip.data.scenes.render import Scene
from unclip.evaluation.metrics.scores import score
from unclip.evaluation.probes.probe import Probe, count_right
from unclip.pipeline.pipeline import Pipeline
from unclip.pipeline.sampling import Generated, Sampling
from unclip.pipeline.settings import Settings
from unclip.stages._part import Part, load_prior

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
    ar_prior: Part | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> Modes:
    """Draw by caption only, by z_t in the place of z_i, and by z_i of each prior there is.

    All four have the decoder's caption and noise in common. ``ar_prior`` stands beside the
    pipeline's own prior.
    """
    if pipeline.decoder.embedding != "image":
        raise UserError("decoder: takes no image embeddings, so there is one way to condition it")
    sampling, many, notes = Sampling(pipeline, settings, progress), len(captions), []
    drawn = {}
    if pipeline.decoder.net.config.use_caption:
        sampling.expect(decodings=many)
        drawn["caption only"] = sampling.decode(None, seeds, captions=captions)
    else:
        notes.append("caption only: left out, this decoder reads no captions")
    sampling.expect(decodings=many)
    z_t = pipeline.embed_captions(captions)
    drawn["z_t in place of z_i"] = sampling.decode(z_t, seeds, captions=captions)
    for name, prior in _priors(pipeline.prior, ar_prior).items():
        if prior is None:
            notes.append(f"{name}: left out, there is none")
            continue
        other = Pipeline(
            pipeline.clip, prior, pipeline.decoder, pipeline.upsamplers, pipeline.device
        )
        drawn[name] = other.generate(captions, seeds, settings=settings, progress=progress)
    return Modes(drawn, notes)


def find_ar_prior(folder: Path, given: Path | None, pipeline: Pipeline) -> Part | None:
    """The autoregressive prior at ``given``, or else in ``folder``'s ``ar_prior``, if any."""
    inside = folder / "ar_prior"
    path = given or (inside if inside.is_dir() else None)
    if path is None:
        return None
    artifacts.expect(artifacts.describe(path, key="ar_prior"), ("ar_prior",), key="ar_prior")
    return load_prior(path, pipeline.clip)


def _priors(own: Part | None, ar_prior: Part | None) -> dict[str, Part | None]:
    autoregressive = own is not None and own.diffusion is None
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
    ar_prior: Part | None = None,
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
