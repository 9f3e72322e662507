"""The work of `unclip evaluate cascade`: a protocol's captions sampled, then measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from unclip.common.devices import find_device
from unclip.common.errors import UserError
from unclip.common.fields import as_dataclass
from unclip.evaluation.features.images import ImageSet, open_images
from unclip.evaluation.features.network import FeatureNetwork, open_network
from unclip.evaluation.features.statistics import Statistics, measure
from unclip.evaluation.linear_probes.probe import LinearProbe, load_probe
from unclip.evaluation.metrics.conditions import Figure, ImagesEvaluation
from unclip.evaluation.metrics.images import wilson
from unclip.evaluation.oracle.oracle import check
from unclip.evaluation.protocols import cascade_page
from unclip.evaluation.protocols.captioned import Protocol
from unclip.evaluation.protocols.images import (
    OpenedSet,
    check_sets,
    evaluate_images,
    open_set,
)
from unclip.evaluation.protocols.sampled import sampling_of
from unclip.pipeline.settings import Settings
from unclip.runs.sample_captions import Opener, reproducible, sample_captions
from unclip.runs.sample_plan import SampleConfig
from unclip.training.world import World

SAMPLES = "samples"  # the folder of the images, within that of the evaluation


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """How sampled images are measured."""

    features: Sequence[str]  # networks, of `unclip.evaluation.features.network.NAMES`
    neighbours: int = 3  # k of precision, recall, density and coverage
    infinity: bool = False  # also the distance at endless samples
    precision: str = "32"  # of the networks
    workers: int = 0  # processes that read
    probe: Path | None = None  # of `unclip fit-probe`
    reference: str | None = None  # images or statistics instead of the protocol's

    def open(self, device: torch.device) -> list[tuple[FeatureNetwork, LinearProbe | None]]:
        """The networks, and with that which is its CLIP the probe.

        Raises:
            UserError: one cannot be opened, or none is the probe's CLIP.
        """
        found: list[tuple[FeatureNetwork, LinearProbe | None]] = []
        refused: UserError | None = None
        for spec in self.features:
            network = open_network(spec, device=device, precision=self.precision)
            probe = None
            if self.probe is not None and network.clip is not None:
                try:
                    probe = load_probe(self.probe, network.clip)
                except UserError as error:  # another CLIP of several may be the probe's
                    refused = refused or error
            found.append((network, probe))
        if self.probe is not None and not any(probe for _, probe in found):
            line = f"--probe {self.probe}: reads embeddings of a CLIP; --features clip:…"
            raise refused or UserError(line)
        return found

    def check(self, protocol: Protocol) -> list[str]:
        """Refuse, before hours of sampling, what could not be measured after them.

        Returns:
            The networks' titles.

        Raises:
            UserError: See `open`; or the reference is not there, of another network, of another
                size or of too few images, as the samples may be.
        """
        count, size = len(protocol.captions), protocol.size
        networks = [network for network, _ in self.open(torch.device("cpu"))]
        for network in networks:
            if self.reference is not None:
                real = self._opened(self.reference, network, size)
            else:
                images = protocol.reference(size or 64)
                measured = partial(measure, images, network)
                real = OpenedSet(protocol.compared, len(images), size, True, measured)
            samples = OpenedSet("samples", count, size, True, real.measured)
            check_sets(samples, real, k=self.neighbours, infinity=self.infinity)
        return [network.title for network in networks]

    def of_reference(self, protocol: Protocol, network: FeatureNetwork, side: int) -> Statistics:
        """The real images' statistics, for samples of ``side`` pixels."""
        if self.reference is None:
            return measure(protocol.reference(side), network, workers=self.workers)
        return self._opened(self.reference, network, protocol.size or side).measured()

    def _opened(self, reference: str, network: FeatureNetwork, size: int | None) -> OpenedSet:
        return open_set(reference, network, option="--reference", size=size, workers=self.workers)


def evaluate_cascade(
    pipeline: Opener,
    protocol: Protocol,
    out: Path,
    *,
    title: str,
    measuring: Measuring,
    config: SampleConfig,
    settings: Settings,
    force: bool = False,
) -> list[tuple[str, list[list[str]]]] | None:
    """Sample what is still missing in ``out``, measure it, and write JSON, table and page there.

    Args:
        pipeline: Opens the cascade on a device.
        protocol: Captions and reference.
        out: The folder; images stay there, so that another network needs no new sampling.
        title: Of the cascade.
        measuring: Networks and measures.
        config: Who samples; its ``n`` and ``limit`` are not used.
        settings: Changes to the artifacts' own sampler settings.
        force: Replace samples of another cascade or of other settings.

    Returns:
        Titles and tables; None on all processes but the first.

    Raises:
        UserError: Cascade, networks, images or folder are not as they should be.
        Interrupted: A signal said so; finished shards are kept.
    """
    check_folder_of(out)
    measuring.check(protocol)
    samples = out / SAMPLES
    manifest = sample_captions(
        pipeline, protocol.captions, samples, config, settings=settings, force=force
    )
    World.here().gather(None)  # the first process has written the list of images
    device = find_device(config.device)
    with reproducible(device.type):
        found = measure_samples(samples, protocol, measuring, device, title=title)
    if manifest is None:
        return None
    record = {
        "format_version": 1,
        "cascade": manifest["cascade"],
        "captions": manifest["captions"],
        "sampling": manifest["settings"],
        "images": manifest["images"],
    }
    found += _kept(out / cascade_page.EVALUATION, record, found)
    shown = open_images(str(samples), option="samples")
    return cascade_page.write(out, found, protocol, record, shown)


def check_folder_of(out: Path) -> None:
    """Refuse a folder of other things.

    Raises:
        UserError: It is.
    """
    held = [path for path in out.iterdir() if path.name[0] != "."] if out.is_dir() else []
    if held and not (out / SAMPLES).is_dir():
        raise UserError(
            f"--out {out}: exists and is not a folder of `unclip evaluate`; name another"
        )


def measure_samples(
    samples: Path,
    protocol: Protocol,
    measuring: Measuring,
    device: torch.device,
    *,
    title: str,
) -> list[ImagesEvaluation]:
    """Figures of the samples for each network; all processes take part, the first one's count."""
    images = open_images(str(samples), option="samples")
    side = images(0).image.shape[0]
    size = protocol.size or side
    found = []
    for network, probe in measuring.open(device):
        reference = measuring.of_reference(protocol, network, side)
        made = open_images(str(samples), option="samples", size=size)
        generated = measure(made, network, workers=measuring.workers)
        if World.here().rank > 0:
            continue
        found.append(
            evaluate_images(
                generated,
                reference,
                network,
                title=title,
                reference_title=measuring.reference or protocol.compared,
                k=measuring.neighbours,
                infinity=measuring.infinity,
                probe=probe,
                sampling=sampling_of(str(samples)),
            )
        )
        if side != size:
            found[-1].notes.append(f"{title}: samples of {side} px were brought to {size}")
    if found and protocol.prompts:
        shares = _oracle(protocol, images)
        for one in found:
            one.figures |= shares
    return found


def _oracle(protocol: Protocol, images: ImageSet) -> dict[str, Figure]:
    """Shares of images of scenes that are right, where the caption states it."""
    verdicts = [check(images(k).image, p.scene) for k, p in enumerate(protocol.prompts)]
    found = {}
    for what in (("colour", "shape"), ("size",), ("position",), ("background",)):
        right = [
            verdict.shows(what)
            for verdict, prompt in zip(verdicts, protocol.prompts)
            if set(what) <= prompt.stated
        ]
        if right:
            share = sum(right) / len(right)
            low, high = wilson(share, len(right))
            found[f"oracle: {' and '.join(what)}"] = Figure(value=share, low=low, high=high)
    return found


def _kept(
    path: Path, record: dict[str, Any], found: Sequence[ImagesEvaluation]
) -> list[ImagesEvaluation]:
    """What an earlier call measured of the same samples, by other networks or references."""
    try:
        before = json.loads(path.read_text())
        if any(before[name] != record[name] for name in record):
            return []
        earlier = [as_dataclass(ImagesEvaluation, one) for one in before["evaluations"]]
    except (OSError, ValueError, KeyError, TypeError, UserError):
        return []
    now = [one.conditions for one in found]
    return [one for one in earlier if one.conditions not in now]
