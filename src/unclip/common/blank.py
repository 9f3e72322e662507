"""Whether a text shows anything. Imports no torch."""

from __future__ import annotations

import re
import unicodedata

_SELECTOR = re.compile("[\u180b-\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]")  # of a variant
_INVISIBLE = frozenset("\u034f\u115f\u1160\u2800\u3164\uffa0")  # joiner, fillers, empty braille


def is_blank(text: str) -> bool:
    """Whether ``text`` is empty, or of spaces, controls and characters of no width alone."""
    return all(map(_shows_nothing, text))


def _shows_nothing(c: str) -> bool:
    invisible = c in _INVISIBLE or _SELECTOR.match(c) is not None
    return c.isspace() or invisible or unicodedata.category(c) in ("Cc", "Cf")
