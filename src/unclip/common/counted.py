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


def about(seconds: float) -> str:
    """A time as one would say it.

    >>> about(42), about(600), about(9000)
    ('42 s', '10 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
