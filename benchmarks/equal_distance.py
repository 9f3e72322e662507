"""How many evaluations draw as well as a stranger's ancestral chain: distances of distributions.

    python benchmarks/equal_distance.py runs/quickstart
    python benchmarks/equal_distance.py runs/quickstart decoder --draws 128

diffusers' UnCLIPPipeline samples by ancestral steps, which add new noise, so no two images can be
compared one by one. For each caption the distribution of what is drawn is compared instead: the
squared energy distance, 2 E|x - y| - E|x - x'| - E|y - y'|, unbiased, in per cent of E|y - y'|, of
samples x to samples y of a long chain with other noise; the mean over captions with its standard
error. Of a trained network the long ancestral chain and the long deterministic one are not the
same, so each kind is compared with its own, and the distance between these two is printed as well.
Without guidance, by which they differ still more.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from fewer_steps import SOLVERS, SPACINGS, Question, Solver, answer, questions
from torch import Tensor

from unclip.common import artifacts
from unclip.data.scenes.dataset import single_object_prompts
from unclip.diffusion.samplers import ddpm
from unclip.diffusion.schedules import full_schedule
from unclip.pipeline.cascade import open_folder
from unclip.pipeline.sampling import noise_of
from unclip.stages.decoder.config import DecoderExperiment

STEPS = {"prior": 25, "decoder": 25, "upsampler": 7}  # of diffusers' pipeline
FEWER = [3, 4, 5, 6, 8, 10, 12, 16]
ROWS = [("ab2", "strided"), ("ddim", "strided"), ("dpmpp_2m", "log-SNR")]


def draw(
    question: Question, solver: Solver | None, timesteps: list[int], *, draws: int, first: int
) -> Tensor:
    """Samples ``[draws, captions, D]`` of the seeds from ``first`` on; no solver is ancestral."""
    found = []
    count = len(question.x_T)
    for k in range(draws):
        seeds = range(first + k * count, first + (k + 1) * count)
        noise = noise_of(seeds, "prior")
        x_T = noise(question.x_T.shape, question.x_T.device).to(question.x_T)
        ask = question._replace(x_T=x_T)
        found.append(answer(ask, solver or partial(ddpm, noise=noise), timesteps).flatten(1))
    return torch.stack(found)


def between(x: Tensor, y: Tensor) -> Tensor:
    """Mean distance of all pairs ``[captions]`` of ``x`` and ``y`` ``[draws, captions, D]``."""
    return torch.cdist(x.transpose(0, 1), y.transpose(0, 1)).mean((1, 2))


def within(x: Tensor) -> Tensor:
    """Mean distance of all pairs of different draws ``[captions]``."""
    return between(x, x) * len(x) / (len(x) - 1)


def compare(stage: str, question: Question, args: argparse.Namespace) -> None:
    """Print the distance of each way to sample a stage."""
    began = time.process_time()
    full = full_schedule(question.predictor.diffusion)

    def samples(solver: str | None, spacing: str, steps: int, first: int = 0) -> Tensor:
        timesteps = SPACINGS[spacing](full, steps)
        way = SOLVERS[solver] if solver else None
        return draw(question, way, timesteps, draws=args.draws, first=first)

    def show(label: str, found: Tensor, truth: Tensor) -> None:
        spread = within(truth)
        apart = 100 * (2 * between(found, truth) - within(found) - spread) / spread
        error = apart.std() / len(apart) ** 0.5
        print(f"{stage}: {label}: {apart.mean():.3g} ({error:.2g})", flush=True)

    ancestral = samples(None, "strided", args.long, first=10**6)
    fixed = samples("dpmpp_2m", "log-SNR", args.long, first=2 * 10**6)
    show(f"ancestral, {STEPS[stage]}", samples(None, "strided", STEPS[stage]), ancestral)
    show("the long deterministic chain to the long ancestral one", fixed, ancestral)
    for solver, spacing in ROWS:
        for steps in args.evaluations:
            show(f"{solver}, {spacing}, {steps}", samples(solver, spacing, steps), fixed)
    print(f"{stage}: {time.process_time() - began:.0f} s of one core\n")


def main() -> None:
    """Print a table for each stage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cascade", type=Path)
    parser.add_argument("stages", nargs="*", help="prior, decoder, upsampler (default: all)")
    parser.add_argument("--captions", type=int, default=8)
    parser.add_argument("--draws", type=int, default=64)
    parser.add_argument("--long", type=int, default=250, help="steps of the long chain")
    parser.add_argument("--evaluations", type=int, nargs="+", default=FEWER)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    stored = artifacts.describe(args.cascade / "decoder", key="decoder").stored(DecoderExperiment)
    shapes = stored.data.scenes.shapes
    captions = [p.caption for p in single_object_prompts(args.captions, 2, shapes)]
    cascade = open_folder(args.cascade)
    unguided = {
        name: replace(part, sampler=replace(part.sampler, guidance=1.0))
        for name in ("prior", "decoder")
        if (part := getattr(cascade, name))
    }
    asked = questions(replace(cascade, **unguided), captions)
    for stage in args.stages or asked:
        compare(stage, asked[stage], args)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
