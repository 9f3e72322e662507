"""The work of `unclip evaluate guidance`: cascades sampled at several scales, then measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from unclip.common.devices import find_device
from unclip.common.errors import UserError
from unclip.common.local_rank import local_rank
from unclip.evaluation.features.images import open_images
from unclip.evaluation.features.network import FeatureNetwork
from unclip.evaluation.features.statistics import measure
from unclip.evaluation.linear_probes.probe import LinearProbe
from unclip.evaluation.metrics.conditions import ImagesEvaluation, check_comparable
from unclip.evaluation.metrics.guided import Line, add_point
from unclip.evaluation.protocols import guidance_page
from unclip.evaluation.protocols.captioned import Protocol
from unclip.evaluation.protocols.images import evaluate_images
from unclip.evaluation.protocols.sampled import sampling_of
from unclip.pipeline.cascade import lacking, with_settings
from unclip.pipeline.pipeline import Pipeline
from unclip.pipeline.settings import Settings
from unclip.runs.evaluate_cascade import SAMPLES, Measuring, check_folder_of
from unclip.runs.sample_captions import Opener, reproducible, sample_captions
from unclip.runs.sample_plan import SampleConfig
from unclip.training.world import World

MAY_DIFFER = ("guidance", "steps", "samplers")  # between scales, and with or without a prior


class Cascade(NamedTuple):
    """One of those compared."""

    title: str
    pipeline: Opener


class _Run(NamedTuple):
    """A cascade with a number of steps, and its folders, one per scale."""

    line: Line
    pipeline: Opener
    steps: int | None
    folders: list[Path]


def evaluate_guidance(
    cascades: Sequence[Cascade],
    protocol: Protocol,
    out: Path,
    *,
    scales: Sequence[float],
    steps: Sequence[int] = (),
    measuring: Measuring,
    config: SampleConfig,
    settings: Settings,
    force: bool = False,
) -> list[tuple[str, list[list[str]]]] | None:
    """Sample every cascade at every scale into ``out/samples``, measure, and write the results.

    The decoder alone is guided more or less. Captions and seeds are the same everywhere, so that
    scales and cascades are compared caption by caption. ``settings`` of a stage are those of the
    cascades that have it: a GLIDE has no prior.

    Args:
        cascades: Titles, all different, and how each is opened.
        protocol: Captions and reference.
        out: The folder.
        scales: Of the decoder's guidance.
        steps: Of the decoder; none for its own.
        measuring: Networks and measures.
        config: Who samples; its ``n`` and ``limit`` are not used.
        settings: Changes to the artifacts' own sampler settings.
        force: Replace samples of other cascades or settings.

    Returns:
        Titles and tables; None on all processes but the first.

    Raises:
        UserError: Cascade, networks, images or folder are not as they should be.
        Interrupted: A signal said so; finished shards are kept.
    """
    check_folder_of(out)
    titles = measuring.check(protocol)
    if len(set(titles)) < len(titles):  # a curve has the name of its network
        raise UserError(
            f"--features: {', '.join(titles)}: two have one name; measure by one of them"
        )
    runs = list(_runs(cascades, out, scales, steps or (None,)))
    if local_rank() == 0:
        _check_settings(cascades, runs, settings, str(find_device(config.device)))
    for run in runs:
        opened = _once(run.pipeline)
        for scale, folder in zip(scales, run.folders):
            how = _guided(settings, scale, run.steps)
            sample_captions(
                _with_own(opened, how),
                protocol.captions,
                folder,
                config,
                settings=replace(how, changes={}),
                force=force,
            )
    World.here().gather(None)  # the first process has written the lists of images
    device = find_device(config.device)
    with reproducible(device.type):
        found = [
            one
            for network, probe in measuring.open(device)
            for one in _measured(runs, protocol, measuring, network, probe)
        ]
    if World.here().rank > 0:
        return None
    notes = list(dict.fromkeys(note for one in found for note in one.notes))
    record: dict[str, Any] = {
        "format_version": 1,
        "protocol": {"captions": protocol.chosen, "reference": protocol.compared},
        "conditions": [one.as_dict()["conditions"] for one in found],
    }
    shown = [[open_images(str(folder), option="samples") for folder in r.folders] for r in runs]
    return guidance_page.write(out, [run.line for run in runs], protocol, record, shown, notes)


def _runs(
    cascades: Sequence[Cascade], out: Path, scales: Sequence[float], steps: Sequence[int | None]
) -> Iterator[_Run]:
    for title, pipeline in cascades:
        for count in steps:
            folder = out / SAMPLES / (title if count is None else f"{title}-steps-{count}")
            line = Line(title if len(steps) == 1 else f"{title}, {count} steps", list(scales))
            yield _Run(line, pipeline, count, [folder / f"scale-{scale:g}" for scale in scales])


def _once(pipeline: Opener) -> Opener:
    """The pipeline is opened once for all scales."""
    opened: list[Any] = []

    def open_it(device: str) -> Any:
        if not opened:
            opened.append(pipeline(device))
        return opened[0]

    return open_it


def _with_own(pipeline: Opener, settings: Settings) -> Opener:
    """Opens a cascade with the ``settings`` of the stages that it has."""

    def open_it(device: str) -> Pipeline:
        cascade = pipeline(device).cascade
        return Pipeline(with_settings(cascade, settings.without(*lacking(cascade))))

    return open_it


def _check_settings(
    cascades: Sequence[Cascade], runs: Sequence[_Run], settings: Settings, device: str
) -> None:
    """Refuse settings that a later cascade cannot be sampled with, before the first is sampled.

    Raises:
        UserError: it names the first such setting.
    """
    missing: list[set[str]] = []
    for cascade in cascades:
        opened = cascade.pipeline(device).cascade
        missing.append(set(lacking(opened)))
        for run in runs:
            if run.pipeline is cascade.pipeline:
                for scale in run.line.scales:
                    how = _guided(settings, scale, run.steps)
                    with_settings(opened, how.without(*missing[-1]))
    for stage in sorted(set.intersection(*missing)):
        if key := settings.first_of(stage):
            raise UserError(f"{key}: no cascade has a {stage}")


def _guided(settings: Settings, scale: float, steps: int | None) -> Settings:
    decoder = {**settings.changes.get("decoder", {}), "guidance": scale}
    decoder |= {} if steps is None else {"steps": steps}
    return replace(settings, changes={**settings.changes, "decoder": decoder})


def _measured(
    runs: Sequence[_Run],
    protocol: Protocol,
    measuring: Measuring,
    network: FeatureNetwork,
    probe: LinearProbe | None,
) -> list[ImagesEvaluation]:
    """Add each scale's figures by one network to its line; how they were measured."""
    first = open_images(str(runs[0].folders[0]), option="samples")
    side = first(0).image.shape[0]
    size = protocol.size or side
    reference = measuring.of_reference(protocol, network, side)
    found = []
    for run in runs:
        for scale, folder in zip(run.line.scales, run.folders):
            images = open_images(str(folder), option="samples", size=size)
            generated = measure(images, network, workers=measuring.workers)
            if World.here().rank > 0:
                continue
            found.append(
                evaluate_images(
                    generated,
                    reference,
                    network,
                    title=f"{run.line.title}, scale {scale:g}",
                    reference_title=measuring.reference or protocol.compared,
                    k=measuring.neighbours,
                    probe=probe,
                    sampling=sampling_of(str(folder)),
                )
            )
            add_point(
                run.line,
                generated,
                reference,
                network,
                probe,
                k=measuring.neighbours,
                distance=found[-1].figures[network.distance],
            )
    if found:
        check_comparable(found, MAY_DIFFER)
    return found
