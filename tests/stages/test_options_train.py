"""What networks of other projects need is a setting, with which our stages train and sample."""

from __future__ import annotations

import pytest
import torch

from unclip.common.seeding import SampleNoise
from unclip.config.load import load_experiment
from unclip.runs.train import train
from unclip.stages import registry

UPSAMPLERS = {
    "additive time": ["model.unet.time=additive"],
    "Karlo's": [
        "model.unet.time=additive",
        "model.last_step=true",
        "diffusion.variance=fixed_small",
        "sampler.sampler=ddpm",
    ],
}


@pytest.mark.parametrize("option", UPSAMPLERS)
def test_an_upsampler_trains_and_samples(minute_experiment, tmp_path, option):
    words = [f"run.dir={tmp_path}", *UPSAMPLERS[option]]
    finished = train(load_experiment(str(minute_experiment("upsampler")), words))
    part = registry.STAGES["upsampler"].load(finished.artifact)
    assert part.draw(torch.zeros(2, 3, 16, 16), SampleNoise([0, 1])).isfinite().all()
