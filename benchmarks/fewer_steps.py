"""How far samples are from those of the whole chain, against evaluations of the network.

    python benchmarks/fewer_steps.py runs/quickstart                    # a trained cascade
    python benchmarks/fewer_steps.py runs/quickstart decoder --captions 8

For the diffusion prior, the decoder and the first upsampler: every deterministic sampler, on
several choices of timesteps, from the same noise and with the same conditions and guidance as
`unclip sample` has. The truth is DPM-Solver++(2M) on all timesteps. Distances are root mean
squares: of embeddings in per cent of their length, of images in units of [-1, 1]. heun asks the
network 2N - 1 times, the others N times. For every number of evaluations the best row is bold.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor

from unclip.common import artifacts
from unclip.data.scenes.dataset import single_object_prompts
from unclip.diffusion.predictor import Predictor
from unclip.diffusion.samplers import ab2, ddim, dpmpp_2m, heun
from unclip.diffusion.schedules import (
    Schedule,
    even_timesteps,
    full_schedule,
    respace,
    sampling_timesteps,
)
from unclip.pipeline.cascade import Cascade, open_folder
from unclip.pipeline.sampling import noise_of
from unclip.stages.decoder.config import DecoderExperiment

EVALUATIONS = [5, 10, 15, 20, 25, 50, 100]
Solver = Callable[[Predictor, Tensor], Tensor]


class Question(NamedTuple):
    """What a stage is asked to sample."""

    predictor: Predictor
    x_T: Tensor
    finish: Callable[[Tensor], Tensor]  # from x_0 to what is compared
    relative: bool  # whether distances are given relative to the result's length


def _ddim(predictor: Predictor, x_T: Tensor) -> Tensor:
    return ddim(predictor, x_T, eta=0.0, noise=noise_of([0], "none"))


SOLVERS: dict[str, Solver] = {"ddim": _ddim, "dpmpp_2m": dpmpp_2m, "heun": heun, "ab2": ab2}


def steps_of(solver: str, evaluations: int) -> int:
    """Steps that take so many evaluations, or one less."""
    return (evaluations + 1) // 2 if solver == "heun" else evaluations


def strided(chain: Schedule, steps: int) -> list[int]:
    return sampling_timesteps(steps, chain)


def inner(chain: Schedule, steps: int) -> list[int]:
    return sampling_timesteps(f"inner{steps}", chain)


def log_snr(chain: Schedule, steps: int) -> list[int]:
    return sampling_timesteps(f"logsnr{steps}", chain)


def karras(chain: Schedule, steps: int) -> list[int]:
    """Evenly in (σ/α)^(1/7) (arXiv 2206.00364, eq. 5)."""
    return even_timesteps(((1 - chain.alpha_bar) / chain.alpha_bar) ** (0.5 / 7), steps)


SPACINGS = {"strided": strided, "inner": inner, "log-SNR": log_snr, "karras": karras}


def caught(draw: Callable[[], Any], where: str) -> tuple[Predictor, Tensor]:
    """The predictor and the noise with which ``draw`` samples, by `sample` as ``where`` has it."""
    found: list[tuple[Predictor, Tensor]] = []

    def keep(predictor: Predictor, x_T: Tensor, *rest: Any, **more: Any) -> Tensor:
        found.append((predictor, x_T))
        return x_T

    with patch(f"unclip.stages.{where}.sample", keep):
        draw()
    return found[0]


def questions(cascade: Cascade, captions: list[str]) -> dict[str, Question]:
    """One for each stage, whose conditions are the samples of the stages before it."""
    prior, decoder, upsampler = cascade.prior, cascade.decoder, cascade.upsamplers[0]
    seeds, clip = range(len(captions)), cascade.clip.model
    assert prior is not None
    one = replace(prior.sampler, candidates=1)

    def drawn(part: Any, stage: str, *given: Any, **more: Any) -> Tensor:
        return part.draw(*given, noise_of(seeds, stage), **more)

    z_i = drawn(prior, "prior", clip, captions, sampler=one)
    small = drawn(decoder, "decoder", z_i, captions)
    of_prior = caught(
        lambda: drawn(prior, "prior", clip, captions, sampler=one), "_prior.diffusion_sampling"
    )
    of_decoder = caught(lambda: drawn(decoder, "decoder", z_i, captions), "decoder.sampling")
    of_upsampler = caught(lambda: drawn(upsampler, "upsampler", small), "upsampler.sampling")
    return {
        "prior": Question(*of_prior, prior.net.from_x0, relative=True),
        "decoder": Question(*of_decoder, lambda x: x.clamp(-1, 1), relative=False),
        "upsampler": Question(*of_upsampler, lambda x: x.clamp(-1, 1), relative=False),
    }


def answer(question: Question, solver: Solver, timesteps: list[int]) -> Tensor:
    """What ``solver`` samples on those timesteps."""
    predictor = question.predictor
    chain = respace(full_schedule(predictor.diffusion), timesteps).to(question.x_T.device)
    # A guidance interval names rows of the stage's own chain.
    plain = replace(predictor, schedule=chain, elsewhere=None)
    return question.finish(solver(plain, question.x_T))


def distance(found: Tensor, truth: Tensor, *, relative: bool) -> float:
    """Root mean square, in per cent of the truth's if ``relative``."""
    error = (found - truth).square().mean().sqrt()
    return float(100 * error / truth.square().mean().sqrt() if relative else error)


def table(
    question: Question,
    solvers: dict[str, Solver],
    spacings: list[str],
    evaluations: list[int],
) -> str:
    """A row for each solver and choice of timesteps."""
    full = full_schedule(question.predictor.diffusion)
    whole = list(range(len(full)))
    truth = answer(question, dpmpp_2m, whole)
    rows: dict[str, list[float]] = {}
    for name, solver in solvers.items():
        for spacing in spacings:
            found = [
                distance(
                    answer(question, solver, SPACINGS[spacing](full, steps_of(name, count))),
                    truth,
                    relative=question.relative,
                )
                for count in evaluations
            ]
            rows[f"{name}, {spacing}"] = found
            print(f"{name}, {spacing}: {found}", file=sys.stderr, flush=True)
    best = [min(column) for column in zip(*rows.values())]
    lines = [f"| evaluations | {' | '.join(map(str, evaluations))} |"]
    lines += ["|---" * (len(evaluations) + 1) + "|"]
    for label, values in rows.items():
        cells = [f"**{v:.3g}**" if v == least else f"{v:.3g}" for v, least in zip(values, best)]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    long = distance(answer(question, _ddim, whole), truth, relative=question.relative)
    return "\n".join([*lines, f"\nddim on all timesteps: {long:.3g}"])


def main(words: list[str] | None = None, solvers: dict[str, Solver] | None = None) -> None:
    """Print a table for each stage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cascade", type=Path)
    parser.add_argument("stages", nargs="*", help="prior, decoder, upsampler (default: all)")
    parser.add_argument("--captions", type=int, default=24)
    parser.add_argument("--evaluations", type=int, nargs="+", default=EVALUATIONS)
    parser.add_argument("--spacings", nargs="+", choices=list(SPACINGS), default=list(SPACINGS))
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(words)
    torch.set_num_threads(args.threads)
    decoder = artifacts.describe(args.cascade / "decoder", key="decoder")
    shapes = decoder.stored(DecoderExperiment).data.scenes.shapes
    captions = [p.caption for p in single_object_prompts(args.captions, 2, shapes)]
    asked = questions(open_folder(args.cascade), captions)
    for stage in args.stages or asked:
        began = time.process_time()
        text = table(asked[stage], solvers or SOLVERS, args.spacings, args.evaluations)
        seconds = time.process_time() - began
        print(f"{stage}, {len(captions)} captions, {seconds:.0f} s of one core\n\n{text}\n")


if __name__ == "__main__":
    with torch.inference_mode():
        main()
