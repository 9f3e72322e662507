"""The same captions and seeds at several guidance scales (arXiv 2204.06125, figure 9)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from PIL import Image

from data_modules.scenes import Scene
from unclip.evaluation.probing.probe import Probe, count_right
from unclip.evaluation.scores import score
from unclip.figures import Array, grid, table, to_uint8
from unclip.pipeline.pipeline import Pipeline
from unclip.pipeline.sampling import Generated
from unclip.pipeline.settings import Settings
from unclip.types import Progress, UserError

SHOWN = 8  # pictures a row where the decoder's scale alone changes


def probe_guidance(
    pipeline: Pipeline,
    captions: Sequence[str],
    seeds: Sequence[int],
    *,
    decoder_scales: Sequence[float],
    prior_scales: Sequence[float] = (),
    scenes: Sequence[Scene] | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> Probe:
    """Draw all captions at each pair of scales; z_i depends on the seed and the prior's alone.

    Without ``prior_scales`` the prior keeps its own, and a row of the sheet is a scale of the
    decoder. With them the sheet is the grid of both, of the first caption.
    """
    if not decoder_scales:
        raise UserError("decoder scales: give at least one")
    settings = settings or Settings()
    images, records = [], []
    for prior in prior_scales or [None]:
        for decoder in decoder_scales:
            own = {} if prior is None else {"prior": {"guidance": prior}}
            scaled = with_changes(settings, {**own, "decoder": {"guidance": decoder}})
            found: Generated = pipeline.generate(
                captions, seeds, settings=scaled, progress=progress
            )
            drawn = list(to_uint8(found.image))
            images.append(drawn)
            record = {"prior": prior, "decoder": decoder} if own else {"decoder": decoder}
            if scenes is not None:
                record.update(score(count_right(drawn, scenes), len(drawn)))
            records.append(record)
    labels = [_label(record) for record in records]
    sheet = _grid if prior_scales else _rows
    return Probe(sheet(images, labels, len(decoder_scales)), records if scenes else [])


def with_changes(settings: Settings, more: dict[str, dict[str, float]]) -> Settings:
    """``settings`` with further changes, by stage."""
    stages = {*settings.changes, *more}
    merged = {s: {**settings.changes.get(s, {}), **more.get(s, {})} for s in stages}
    return replace(settings, changes=merged)


def _label(record: dict) -> str:
    text = ", ".join(f"{name} {record[name]:g}" for name in ("prior", "decoder") if name in record)
    return f"{text}: {record['right']} of {record['n']} right" if "n" in record else text


def _grid(images: list[list[Array]], labels: list[str], columns: int) -> Image.Image:
    return grid([drawn[0] for drawn in images], labels, columns=columns)


def _rows(images: list[list[Array]], labels: list[str], columns: int) -> Image.Image:
    shown = [drawn[:SHOWN] for drawn in images]
    return table(shown, rows=labels, columns=[""] * len(shown[0]))
