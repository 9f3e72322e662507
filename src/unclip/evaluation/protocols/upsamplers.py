"""Judging trained upsamplers on held-out images, and which evaluation a trained stage is for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from unclip.common import artifacts
from unclip.common.errors import UserError
from unclip.common.progress import bar_interval
from unclip.common.seeding import SampleNoise, derive_seed
from unclip.common.seeds import require_seed
from unclip.data.decode import BadSample
from unclip.data.readers.source import Source
from unclip.data.sources import open_splits
from unclip.data.transforms import Square, to_tensor
from unclip.degradations.bsr_parameters import UNIFORMS
from unclip.degradations.config import CorruptionKind
from unclip.degradations.downsample import corrupt
from unclip.evaluation.metrics.upsamplers import Comparison, EvaluatedUpsampler, measure
from unclip.pipeline.settings import Settings
from unclip.stages.upsampler.config import UpsamplerExperiment
from unclip.stages.upsampler.part import load
from unclip.training.world import device_of


class UpsamplerEvaluation(NamedTuple):
    """What was measured, and the images to look at."""

    result: EvaluatedUpsampler
    rows: list[Comparison]


def check_settings(path: Path, settings: Settings) -> None:
    """Refuse what the upsampler at ``path`` cannot be sampled with, without loading it.

    Raises:
        UserError: a value out of range.
    """
    artifact = artifacts.describe(path, key="upsampler")
    settings.apply("upsampler", artifact.stored(UpsamplerExperiment))


def evaluate_upsampler(
    path: Path,
    *,
    title: str,
    n: int,
    batch: int,
    seed: int,
    settings: Settings,
    source: str | None,
    kind: CorruptionKind | None,
) -> UpsamplerEvaluation:
    """Scores of the upsampler at ``path`` on ``n`` whole held-out images, ``batch`` at a time.

    Every small image is corrupted as training does, or as ``kind`` says.
    """
    require_seed(seed, "seed")
    artifact = artifacts.expect(
        artifacts.describe(path, key="upsampler"), ("upsampler",), key="upsampler"
    )
    experiment = artifact.stored(UpsamplerExperiment)
    corruption = replace(experiment.corruption, kind=kind or experiment.corruption.kind)
    corruption.validate()
    part = load(artifact.path)
    part = replace(part, sampler=settings.apply("upsampler", part))
    device = device_of(experiment.trainer.accelerator)
    part.net.to(device)
    model, data = experiment.model, experiment.data
    data = replace(data, source=source or data.source, val_samples=n)
    held_out = open_splits(data, image_size=model.image_size).held_out
    images = HeldOutImages(held_out, side=model.image_size, n=n, batch=batch, device=device)

    def degrade(image: Tensor, numbers: Sequence[int]) -> Tensor:
        seeds = [derive_seed("corruption", seed, k) for k in numbers]
        draws = SampleNoise(seeds)
        uniforms = draws.uniform((len(image), UNIFORMS))
        noise = draws(image.shape, image.device)
        return corrupt(image, model.low_size, corruption, uniforms=uniforms, noise=noise)

    bar = tqdm(images, desc=title, unit="batch", mininterval=bar_interval())
    measured = measure(part, bar, degrade, seed=seed)
    if not measured.n:
        raise UserError(
            f"data.source={data.source}: no held-out image of {model.image_size} pixels a side or"
            f" more ({images.skipped} skipped); give --data another source"
        )
    result = EvaluatedUpsampler(
        name=title,
        low_size=model.low_size,
        image_size=model.image_size,
        corruption=corruption.kind,
        n=measured.n,
        skipped=images.skipped,
        parameters=sum(p.numel() for p in part.net.parameters()),
        milliseconds=1000 * measured.seconds / measured.n,
        scores=measured.scores,
    )
    return UpsamplerEvaluation(result, measured.rows)


class HeldOutImages:
    """The first ``n`` images of a source as squares ``[B, 3, side, side]`` in [-1, 1].

    Cropped in the middle and reduced. An image is never enlarged: what is smaller, or cannot be
    read, is counted in ``skipped``.
    """

    def __init__(self, source: Source, *, side: int, n: int, batch: int, device: torch.device):
        self._source = source
        self._side = side
        self._n = n
        self._batch = batch
        self._device = device
        self.skipped = 0

    def __len__(self) -> int:
        """Batches, if none is skipped."""
        return -(-min(self._n, len(self._source)) // self._batch)

    def __iter__(self) -> Iterator[Tensor]:
        self.skipped = 0
        square, found = Square(sizes=(self._side,)), 0
        squares: list[np.ndarray] = []
        for index in range(len(self._source)):
            if found == self._n:
                break
            try:
                image = self._source[index].image
            except BadSample:
                self.skipped += 1
                continue
            if min(image.shape[:2]) < self._side:
                self.skipped += 1
                continue
            found += 1
            squares += square(image, Random(0))
            if len(squares) == self._batch:
                yield to_tensor(squares).to(self._device)
                squares = []
        if squares:
            yield to_tensor(squares).to(self._device)
