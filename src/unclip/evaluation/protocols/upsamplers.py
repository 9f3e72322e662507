"""Judging trained upsamplers on held-out pictures, and which evaluation a trained stage is for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
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
from unclip.data.decode import BadSample
from unclip.data.readers.source import Source
from unclip.data.sources import open_splits
from unclip.data.transforms import Square, to_tensor
from unclip.degradations.bsr_parameters import UNIFORMS
from unclip.degradations.low import degraded
from unclip.evaluation.metrics.upsamplers import EvaluatedUpsampler, Row, measure
from unclip.runs.folders import trained
from unclip.stages._part import PRIORS
from unclip.stages.upsampler.config import UpsamplerExperiment
from unclip.stages.upsampler.part import load_upsampler
from unclip.training.world import device_of


class Judged(NamedTuple):
    """What was measured, and the pictures to look at."""

    result: EvaluatedUpsampler
    rows: list[Row]


def evaluate_upsampler(
    name: str,
    *,
    n: int,
    batch: int,
    seed: int,
    steps: str | None,
    source: str | None,
    kind: str | None,
) -> Judged:
    """Scores of a trained upsampler on ``n`` whole held-out pictures, ``batch`` at a time.

    Every small picture is corrupted as training does, or as ``kind`` says.
    """
    artifact = artifacts.expect(artifact_of(name), ("upsampler",), key="upsampler")
    experiment = artifacts.typed(UpsamplerExperiment, artifact.config)
    corruption = replace(experiment.corruption, kind=kind or experiment.corruption.kind)
    corruption.validate()
    part = load_upsampler(artifact.path)
    if steps is not None:
        part = part.with_steps(steps)
    device = device_of(experiment.trainer.accelerator)
    part.net.to(device)
    model, data = experiment.model, experiment.data
    data = replace(data, source=source or data.source, val_samples=n)
    held_out = open_splits(data, image_size=model.image_size).held_out
    pictures = Pictures(held_out, side=model.image_size, n=n, batch=batch, device=device)

    def degrade(image: Tensor, numbers: Sequence[int]) -> Tensor:
        seeds = [derive_seed("corruption", seed, k) for k in numbers]
        draws = SampleNoise(seeds)
        uniforms = draws.uniform((len(image), UNIFORMS), image.device)
        noise = draws(image.shape, image.device)
        return degraded(image, model.low_size, corruption, uniforms=uniforms, noise=noise)

    bar = tqdm(pictures, desc=name, unit="batch", mininterval=bar_interval())
    measured = measure(part, bar, degrade, seed=seed)
    if not measured.n:
        raise UserError(
            f"data.source={data.source}: no held-out picture of {model.image_size} pixels a side or"
            f" more ({pictures.skipped} skipped); give --data another source"
        )
    result = EvaluatedUpsampler(
        name=name,
        low_size=model.low_size,
        image_size=model.image_size,
        corruption=corruption.kind,
        n=measured.n,
        skipped=pictures.skipped,
        parameters=sum(p.numel() for p in part.net.parameters()),
        milliseconds=1000 * measured.seconds / measured.n,
        scores=measured.scores,
    )
    return Judged(result, measured.rows)


class Pictures:
    """The first ``n`` pictures of a source as squares ``[B, 3, side, side]`` in [-1, 1].

    Cropped in the middle and reduced. A picture is never enlarged: what is smaller, or cannot be
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


def artifact_of(name: str) -> artifacts.Artifact:
    """The artifact of ``name``: an experiment with a finished run, a run, or an artifact."""
    return artifacts.describe(trained(name), key="evaluate")


def kind_of(names: Sequence[str]) -> str:
    """`priors` or `upsamplers`: what all of ``names`` are.

    Raises:
        UserError: one of them is neither, or they are not of one kind.
    """
    stages = {name: artifact_of(name).stage for name in names}
    for name, stage in stages.items():
        if stage not in (*PRIORS, "upsampler"):
            raise UserError(f"{name}: is a {stage}; priors and upsamplers can be evaluated")
    kinds = {"upsamplers" if stage == "upsampler" else "priors" for stage in stages.values()}
    if len(kinds) > 1:
        listed = ", ".join(f"{name} is a {stage}" for name, stage in stages.items())
        raise UserError(f"evaluate: priors and upsamplers are measured apart: {listed}")
    return kinds.pop()
