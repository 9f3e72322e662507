"""The trained upsampler, from its artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unclip.common import artifacts
from unclip.embeddings.gpt2 import tokenizer_of
from unclip.stages.experiment import ParentSizes
from unclip.stages.upsampler.config import UpsamplerExperiment
from unclip.stages.upsampler.network import build_network
from unclip.stages.upsampler.sampling import UpsamplerPart


def load(path: Path | str, clip: Any = None, *, key: str = "upsampler") -> UpsamplerPart:
    """From an artifact; ``clip`` plays no part, since an upsampler knows none."""
    artifact = artifacts.expect(artifacts.describe(path, key=key), ("upsampler",), key=key)
    experiment = artifact.experiment(UpsamplerExperiment, "model", "sampler", "diffusion")
    net = artifact.network(lambda: build_network(experiment, ParentSizes()))
    tokenize = tokenizer_of(experiment.model, artifact.path)
    return UpsamplerPart(net, experiment.sampler, experiment.diffusion, tokenize)
