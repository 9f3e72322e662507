"""Keys that files of earlier versions have and that are no longer fields. Imports no torch.

A config says in ``GONE: ClassVar[dict[str, str]]`` which fields it no longer has, and what takes
their place. In files they are ignored; whoever types one is told.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from unclip.common.checks import hints_of


def removed_fields(cls: Any) -> dict[str, str]:
    """The former fields of a config: name -> what takes its place."""
    return getattr(cls, "GONE", {})


def without_removed(cls: Any, content: dict[str, Any]) -> dict[str, Any]:
    """Nested plain values of the dataclass ``cls`` without its former fields."""
    kept = {}
    hints = hints_of(cls)
    for name, value in content.items():
        if name in removed_fields(cls):
            continue
        section = hints.get(name)
        nested = isinstance(value, dict) and dataclasses.is_dataclass(section)
        kept[name] = without_removed(section, value) if nested else value
    return kept
