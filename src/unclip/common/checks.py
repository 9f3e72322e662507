"""Checks that every config uses, and the hint for a misspelt word."""

from __future__ import annotations

import difflib
from typing import Any

from unclip.common.errors import UserError


def require(condition: bool, key: str, message: str) -> None:
    """Raise a `UserError` that names ``key`` unless ``condition`` holds."""
    if not condition:
        raise UserError(f"{key}: {message}")


def nearest(word: str, valid: object, otherwise: str | None = None) -> str:
    """A hint that names the closest of ``valid``; else ``otherwise``, or all of them if None."""
    words = [str(w) for w in valid]  # type: ignore[attr-defined]
    close = difflib.get_close_matches(word, words, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    if otherwise is not None:
        return otherwise
    return f"; valid: {', '.join(words)}" if words else ""


def typed_value(cls: type, name: str, value: object) -> Any:
    """``value`` as the type of the field ``name`` of the dataclass ``cls``.

    Raises:
        UserError: it cannot be one.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    node = OmegaConf.structured(cls)
    try:
        OmegaConf.update(node, name, value)
    except OmegaConfBaseException as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"{name}={value!r}: {reason}") from None
    return OmegaConf.to_object(node).__dict__[name]
