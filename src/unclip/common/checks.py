"""Checks that every config uses, and the hint for a misspelt word."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from unclip.common.errors import UserError


def hints_of(cls: Any) -> Mapping[str, Any]:
    """The types of the fields of a dataclass, whose texts are evaluated once."""
    return _evaluated(cls)


@functools.cache
def _evaluated(cls: Any) -> Mapping[str, Any]:
    return types.MappingProxyType(typing.get_type_hints(cls))


def require(condition: bool, key: str, message: str) -> None:
    """Raise a `UserError` that names ``key`` unless ``condition`` holds."""
    if not condition:
        raise UserError(f"{key}: {message}")


def require_choices(config: Any, prefix: str) -> None:
    """Raise a `UserError` if a `Literal` field of the dataclass ``config`` has another value.

    ``prefix`` is the section's key, such as ``model.unet``; it is empty for a whole experiment.
    """
    hints = hints_of(type(config))
    for field in dataclasses.fields(config):
        hint = hints[field.name]
        choices, value = choices_of(hint), getattr(config, field.name)
        if choices and value not in choices and not (value is None and takes_none(hint)):
            key = f"{prefix}.{field.name}" if prefix else field.name
            raise UserError(f"{key}={value!r}: must be one of {', '.join(choices)}")


def choices_of(hint: Any) -> tuple[str, ...]:
    """The values of a `Literal` type, or one or None; none of any other type."""
    for kind in alternatives(hint):
        if typing.get_origin(kind) is Literal:
            return typing.get_args(kind)
    return ()


def takes_none(hint: Any) -> bool:
    """Whether None is a value of the type ``hint``."""
    return type(None) in alternatives(hint)


def alternatives(hint: Any) -> tuple[Any, ...]:
    """The types of a union; any other type alone."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def as_choice(setting: str, value: object, choices: tuple[str, ...]) -> str:
    """``value``, which must be one of ``choices``; YAML reads the choice 32 as a number.

    Raises:
        UserError: it is another one; ``setting`` is how it was given.
    """
    if str(value) not in choices:
        raise UserError(f"{setting}: must be one of {', '.join(choices)}")
    return str(value)


def closest(word: str, words: Iterable[str], *, alike: float = 0.6) -> str | None:
    """The one of ``words`` that ``word`` may be a slip for: at least ``alike``, of 1."""
    return next(iter(difflib.get_close_matches(word, list(words), n=1, cutoff=alike)), None)


def nearest(word: str, valid: object, otherwise: str | None = None) -> str:
    """A hint that names the closest of ``valid``; else ``otherwise``, or all of them if None."""
    words = [str(w) for w in valid]  # type: ignore[attr-defined]
    if close := closest(word, words):
        return f"; did you mean {close!r}?"
    if otherwise is not None:
        return otherwise
    return f"; valid: {', '.join(words)}" if words else ""
