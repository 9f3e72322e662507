"""A trained decoder as the pipeline uses it."""

from __future__ import annotations

from pathlib import Path

from unclip.common import artifacts
from unclip.common.errors import UserError
from unclip.diffusion.config import DiffusionConfig, SamplerConfig
from unclip.embeddings.clip import FrozenClip, check_embedding
from unclip.embeddings.tokens import Tokenizer
from unclip.stages._part import Part
from unclip.stages.decoder.config import DecoderConfig
from unclip.stages.decoder.network import Decoder

EMBEDDINGS = ("image", "text", "none")
"""What a decoder takes besides the caption: z_i, z_t in its place, or nothing (GLIDE)."""


def decoder_embedding(artifact: artifacts.Artifact) -> str:
    """Which of `EMBEDDINGS` a decoder takes: only one that takes z_i needs a prior."""
    if not artifact.section("model", DecoderConfig).use_z_i:
        return "none"
    found = artifact.config.get("embedding", "image")  # older ones do not say
    if found not in EMBEDDINGS:
        raise UserError(f"{artifact.path / 'config.yaml'}: embedding={found}: unknown")
    return found


def describe_decoder(path: Path | str) -> artifacts.Artifact:
    """A decoder's artifact, without its weights."""
    return artifacts.expect(artifacts.describe(path, key="decoder"), ("decoder",), key="decoder")


def load_decoder(path: Path | str, clip: FrozenClip) -> Part:
    """A decoder; one that was trained with another CLIP is refused."""
    artifact = describe_decoder(path)
    check_embedding(artifact, clip, key="decoder")
    model = artifact.section("model", DecoderConfig)
    net = Decoder(model, clip.model.embed_dim)
    artifact.load_into(net)
    return Part(
        net,
        artifact.section("sampler", SamplerConfig),
        artifact.section("diffusion", DiffusionConfig),
        Tokenizer(model.text.context),
        embedding=decoder_embedding(artifact),
    )
