"""Each step of diffusers' UnCLIPScheduler, recorded, is a step of our ancestral sampler.

Its tables are float32, and so are those of an import (`diffusion.tables`). In exact arithmetic the
step from t = 999 is 5e-5 of the sample's size off, the last but one 1e-5, and that from t = 0,
where 1 - ᾱ loses its digits, 6e-4.
"""

from __future__ import annotations

import json

import pytest
import torch
from golden_files import GOLDENS, Recorded, tensors
from torch import Tensor

from unclip.diffusion.config import (
    DiffusionConfig,
    ImageDiffusionConfig,
    SamplerConfig,
    TablePrecision,
)
from unclip.diffusion.predictor import Predictor, build_predictor
from unclip.diffusion.samplers import ancestral_step, sample

KINDS = pytest.mark.parametrize("kind", ["prior", "decoder", "super_res"])
PREDICTIONS = {"sample": "x0", "epsilon": "eps"}
VARIANCES = {"fixed_small_log": "fixed_small", "learned_range": "learned_range"}


def settings(
    kind: str, steps: int, tables: TablePrecision = "float32"
) -> tuple[DiffusionConfig, SamplerConfig]:
    """Ours for a scheduler's configuration."""
    file = GOLDENS / f"karlo-diffusers/{kind}_scheduler/scheduler_config.json"
    theirs = json.loads(file.read_text())
    assert theirs["beta_schedule"] == "squaredcos_cap_v2"
    assert theirs["clip_sample"]
    diffusion = ImageDiffusionConfig(
        steps=theirs["num_train_timesteps"],
        schedule="cosine",
        prediction=PREDICTIONS[theirs["prediction_type"]],
        variance=VARIANCES[theirs["variance_type"]],
        tables=tables,
    )
    reach = theirs["clip_sample_range"]
    assert reach == (5.0 if kind == "prior" else 1.0)
    return diffusion, SamplerConfig(sampler="ddpm", steps=steps, clip="static", clip_range=reach)


def recorded(kind: str) -> dict[str, Tensor]:
    prefix = f"{kind}_scheduler."
    found = tensors("karlo-diffusers/scheduler_steps")
    return {name.removeprefix(prefix): x for name, x in found.items() if name.startswith(prefix)}


def predictor(
    kind: str, golden: dict[str, Tensor], tables: TablePrecision = "float32"
) -> Predictor:
    outputs = iter(golden["model_output"])
    times = iter(golden["timesteps"].tolist())

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        assert t.tolist() == [next(times)] * len(x)
        return next(outputs)

    diffusion, sampler = settings(kind, len(golden["timesteps"]), tables)
    return build_predictor(denoise, diffusion=diffusion, sampler=sampler, device="cpu")


def assert_near(found: Tensor, golden: Tensor, tolerance: float) -> None:
    """Equal to ``tolerance`` of the largest number."""
    bound = tolerance * golden.abs().max().item()
    torch.testing.assert_close(found, golden, rtol=0, atol=bound)


@KINDS
@pytest.mark.parametrize("tables", ["float32", "float64"])
def test_every_step_from_the_recorded_sample_is_ours(kind, tables):
    golden = recorded(kind)
    ours, steps = predictor(kind, golden, tables), len(golden["timesteps"])
    for k, row in enumerate(range(steps)[::-1]):
        x = golden["x"][k]
        step = ancestral_step(ours(x, row), x, ours.index(x, row), schedule=ours.schedule)
        found = step.mean + (step.sigma * golden["noise"][k] if row else 0)
        rounded = {0: 5e-5, steps - 2: 1e-5, steps - 1: 6e-4} if tables == "float64" else {}
        assert_near(found, golden["x"][k + 1], rounded.get(k, 2e-6))


@KINDS
def test_the_whole_chain_is_ours(kind):
    golden = recorded(kind)
    _, sampler = settings(kind, len(golden["timesteps"]))
    noise = Recorded(golden["noise"])
    found = sample(predictor(kind, golden), golden["x"][0], sampler, noise=noise)
    assert_near(found, golden["x"][-1], 2e-6)
