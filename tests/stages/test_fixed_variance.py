"""Networks of images that learn no variance output the prediction alone, and do all else."""

from __future__ import annotations

import pytest
import torch

from unclip.common.seeding import SampleNoise
from unclip.config.load import load_experiment
from unclip.runs.train import train
from unclip.stages import registry
from unclip.stages.clip.part import load as load_clip


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("kind", ["decoder", "upsampler"])
def test_output_channels_follow_the_variance(cascade, minute_experiment, tmp_path, kind, variance):
    given = [f"run.dir={tmp_path}", f"diffusion.variance={variance}", "sampler.sampler=ddpm"]
    row = registry.STAGES[kind]
    clip = load_clip(str(cascade / "clip")) if row.parents else None
    if clip:
        given.append(f"clip={cascade / 'clip'}")
    finished = train(load_experiment(str(minute_experiment(kind)), given))
    assert "train/vb" not in finished.summary["metrics"]
    part = row.load(finished.artifact, clip)
    assert part.net.unet.out.out_channels == 3
    noise = SampleNoise([0, 1])
    if kind == "decoder":
        found = part.draw(None, ["a", "b"], noise)
    else:
        found = part.draw(torch.zeros(2, 3, 16, 16), noise)
    assert found.isfinite().all()
