"""The trained CLIP as other stages use it: frozen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unclip.common.artifacts import WORDS, describe, expect
from unclip.embeddings import words
from unclip.embeddings.clip import FrozenClip, load_open_clip
from unclip.stages.clip.config import ClipConfig
from unclip.stages.clip.network import build_clip


def load(path: Path | str, clip: Any = None, *, key: str = "clip") -> FrozenClip:
    """The frozen CLIP that ``path`` names: an artifact folder or ``open_clip:ARCH/TAG``.

    ``clip`` plays no part; the parts of other stages need one.
    """
    if str(path).startswith("open_clip:"):
        model = load_open_clip(str(path))
        return FrozenClip(model, model.fingerprint(), str(path))
    artifact = expect(describe(path, key=key), ("clip",), key=key)
    config = artifact.section("model", ClipConfig)
    model = artifact.network(lambda: build_clip(config), "model")
    clip = FrozenClip(model, model.fingerprint(), str(path))
    if (artifact.path / WORDS).is_file():
        words.read(artifact.path / WORDS, clip)
    return clip
