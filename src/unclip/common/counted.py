"""Numbers of things in messages, with the right form of the noun. Imports no torch."""

from __future__ import annotations

_HISSING = ("s", "x", "ch", "sh")


def counted(count: int, noun: str) -> str:
    """``count`` and ``noun``, in the plural unless it is one thing.

    >>> counted(1, "process"), counted(2, "process"), counted(1200, "held-out image")
    ('1 process', '2 processes', '1,200 held-out images')
    """
    return f"{count:,} {noun if count == 1 else plural(noun)}"


def plural(noun: str) -> str:
    """``noun`` in the plural; regular ones only."""
    return f"{noun}{'es' if noun.endswith(_HISSING) else 's'}"
