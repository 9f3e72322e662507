"""A trained upsampler as the pipeline uses it."""

from __future__ import annotations

from pathlib import Path

from unclip.common import artifacts
from unclip.diffusion.config import DiffusionConfig
from unclip.stages._part import Part
from unclip.stages.upsampler.config import UpsamplerConfig, UpsamplerSamplerConfig
from unclip.stages.upsampler.network import Upsampler


def load_upsampler(path: Path | str) -> Part:
    """An upsampler; it knows no CLIP."""
    artifact = artifacts.expect(
        artifacts.describe(path, key="upsampler"), ("upsampler",), key="upsampler"
    )
    net = Upsampler(artifact.section("model", UpsamplerConfig))
    artifact.load_into(net)
    return Part(
        net,
        artifact.section("sampler", UpsamplerSamplerConfig),
        artifact.section("diffusion", DiffusionConfig),
    )
