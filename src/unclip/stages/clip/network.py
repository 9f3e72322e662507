"""A CLIP of our own shape, built as an open_clip model."""

from __future__ import annotations

from typing import Any

from torch import nn


def _vector_scale(model: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    """In files the temperature is a scalar, as open_clip's own weights have it."""
    name = f"{prefix}logit_scale"
    if name in state:
        state[name] = state[name].reshape(1)
