"""The same captions and seeds at several guidance scales (arXiv 2204.06125, figure 9)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from PIL import Image

from unclip.common.errors import UserError
from unclip.common.images import Array, grid, table, to_uint8
from unclip.common.types import Progress
from unclip.data.scenes.render import Scene
from unclip.diffusion.config import MOST_GUIDANCE
from unclip.evaluation.probes.probe import Probe, count_right
from unclip.evaluation.statistics.shares import score
from unclip.pipeline.pipeline import Pipeline
from unclip.pipeline.settings import Settings

SHOWN = 8  # images a row where the decoder's scale alone changes


def check_scales(
    decoder_scales: Sequence[float], prior_scales: Sequence[float], settings: Settings | None
) -> None:
    """Refuse scales that no guidance has, or that ``settings`` give as well.

    Raises:
        UserError: it names the stage.
    """
    if not decoder_scales:
        raise UserError("--decoder-scales: give at least one")
    for stage, scales in (("decoder", decoder_scales), ("prior", prior_scales)):
        if scales and settings and "guidance" in settings.changes.get(stage, {}):
            raise UserError(f"{stage}.guidance: is set by --{stage}-scales; give it there")
        if not all(0 <= scale <= MOST_GUIDANCE for scale in scales):
            raise UserError(f"--{stage}-scales: each must be in [0, {MOST_GUIDANCE:g}]")


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
    decoder. With them the sheet is the grid of both, of the first caption. The oracle counts where
    ``scenes`` are given.
    """
    check_scales(decoder_scales, prior_scales, settings)
    axes = {"prior": prior_scales, "decoder": decoder_scales}
    axes = {stage: scales for stage, scales in axes.items() if scales}
    images: list[list[Array]] = []
    records: list[dict[str, Any]] = []
    for scales in product(*axes.values()):
        at = dict(zip(axes, scales))
        found = pipeline.generate(
            captions, seeds, settings=scaled(settings or Settings(), at), progress=progress
        )
        drawn = list(to_uint8(found.image))
        counted = score(count_right(drawn, scenes), len(drawn)) if scenes is not None else {}
        images.append(drawn)
        records.append({**at, **counted})
    labels = [_label(record) for record in records]
    sheet = _rows(images, labels)
    if prior_scales:
        sheet = grid([drawn[0] for drawn in images], labels, columns=len(decoder_scales))
    return Probe(sheet, records if scenes is not None else [])


def scaled(settings: Settings, scales: dict[str, float]) -> Settings:
    """``settings`` with the guidance of stages set to ``scales``."""
    changes = dict(settings.changes)
    for stage, scale in scales.items():
        changes[stage] = {**changes.get(stage, {}), "guidance": scale}
    return replace(settings, changes=changes)


def _label(record: dict[str, Any]) -> str:
    text = ", ".join(f"{name} {record[name]:g}" for name in ("prior", "decoder") if name in record)
    return f"{text}: {record['right']} of {record['n']} right" if "n" in record else text


def _rows(images: Sequence[Sequence[Array]], labels: Sequence[str]) -> Image.Image:
    shown = [drawn[:SHOWN] for drawn in images]
    return table(shown, rows=labels, columns=[""] * len(shown[0]))
