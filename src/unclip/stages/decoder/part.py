"""The trained decoder, from its artifact."""

from __future__ import annotations

import typing
from pathlib import Path

from unclip.common import artifacts
from unclip.common.errors import UserError
from unclip.embeddings.agreement import check_embedding
from unclip.embeddings.clip import FrozenClip
from unclip.embeddings.gpt2 import tokenizer_of
from unclip.stages.decoder.config import DecoderConfig, DecoderExperiment
from unclip.stages.decoder.network import build_network
from unclip.stages.decoder.sampling import DecoderPart, Takes
from unclip.stages.interface import LoadedParents


def load(path: Path | str, clip: FrozenClip | None, *, key: str = "decoder") -> DecoderPart:
    """From an artifact; one that was trained with another CLIP is refused.

    Only one that takes no embeddings and reads captions itself (GLIDE) can do without a CLIP.
    """
    artifact = describe(path, key=key)
    experiment = artifact.experiment(DecoderExperiment, "model", "sampler", "diffusion")
    if clip or takes(artifact) != "none" or experiment.model.caption == "clip":
        check_embedding(artifact, clip, key=key)
    sizes = LoadedParents(clip).sizes()
    net = artifact.network(lambda: build_network(experiment, sizes))
    return DecoderPart(
        net,
        experiment.sampler,
        experiment.diffusion,
        tokenizer_of(experiment.model, artifact.path),
        takes(artifact),
        clip.model if clip and experiment.model.caption == "clip" else None,
    )


def describe(path: Path | str, *, key: str = "decoder") -> artifacts.Artifact:
    """A decoder's artifact, without its weights."""
    return artifacts.expect(artifacts.describe(path, key=key), ("decoder",), key=key)


def takes(artifact: artifacts.Artifact) -> Takes:
    """What a decoder takes besides the caption: only one that takes z_i needs a prior."""
    if not artifact.section("model", DecoderConfig).use_z_i:
        return "none"
    found = artifact.config.get("embedding", "image")  # older ones do not say
    if found not in typing.get_args(Takes):
        raise UserError(f"{artifact.path / 'config.yaml'}: embedding={found}: unknown")
    return found
