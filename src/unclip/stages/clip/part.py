"""The trained CLIP as other stages use it: frozen."""

from __future__ import annotations

from unclip.common.artifacts import describe, expect
from unclip.embeddings.clip import Clip, FrozenClip, load_open_clip
from unclip.stages.clip.config import ClipConfig


def load_clip(spec: str, *, key: str = "clip") -> FrozenClip:
    """The frozen CLIP that ``spec`` names: an artifact folder or ``open_clip:ARCH/TAG``."""
    if spec.startswith("open_clip:"):
        model = load_open_clip(spec)
    else:
        artifact = expect(describe(spec, key=key), ("clip",), key=key)
        model = Clip.from_config(artifact.section("model", ClipConfig))
        artifact.load_into(model.model)
    model.eval().requires_grad_(False)
    return FrozenClip(model, model.fingerprint(), spec)
