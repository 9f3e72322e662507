"""Fonts that come with packages, for text on images; what none of them has is spelt as a code."""

from __future__ import annotations

import functools
import io
from pathlib import Path

from PIL import ImageFont

from unclip.common.terminal import say

_INVISIBLE = "\u200c\u200d\ufe0e\ufe0f"  # join letters, choose the form of an emoji
_SHOWN = 10  # letters that a note names


def font_for(text: str, size: float) -> ImageFont.FreeTypeFont:
    """Pillow's own font where it has all letters of ``text``, else DejaVu Sans.

    Pillow's has English alone; DejaVu has Latin, Greek, Cyrillic, Hebrew, Arabic and more, but not
    Chinese, Japanese, Korean and the letters of South Asia.
    """
    if set(map(ord, text)) <= _letters(None):
        return _font(None, size)
    return _font(_dejavu(), size)


def missing(text: str) -> str:
    """The letters of ``text`` that no font has, each once, in their order."""
    if set(map(ord, text)) <= _letters(None):
        return ""
    known = _letters(_dejavu())
    return "".join(c for c in dict.fromkeys(text) if ord(c) not in known and c not in _INVISIBLE)


def drawable(text: str) -> str:
    r"""``text`` with its `missing` letters as codes (``\u7ea2``), which a note says once.

    >>> drawable("a red circle")
    'a red circle'
    """
    absent = missing(text)
    if not absent:
        return text
    _note(absent)
    return "".join(_code(c) if c in absent else c for c in text)


def _code(letter: str) -> str:
    return letter.encode("unicode_escape").decode()


_noted: set[str] = set()


def _note(absent: str) -> None:
    """Say it of letters that were not met before."""
    new = [c for c in absent if c not in _noted and c.isprintable()]
    _noted.update(new)
    if new:
        more = f" and {len(new) - _SHOWN} more" if len(new) > _SHOWN else ""
        say(
            f"unclip: note: no font for {' '.join(new[:_SHOWN])}{more}: images show the codes of "
            f"such letters, as {_code(new[0])}",
            error=True,
        )


def _dejavu() -> Path:
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


@functools.cache
def _letters(file: Path | None) -> frozenset[int]:
    """Code points that a font has; Pillow's own without ``file``."""
    from matplotlib.ft2font import FT2Font

    font = FT2Font(str(file) if file else io.BytesIO(_font(None, 10).font_bytes))
    return frozenset(font.get_charmap())


@functools.cache
def _font(file: Path | None, size: float) -> ImageFont.FreeTypeFont:
    if file:
        return ImageFont.truetype(str(file), size)
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # every wheel of Pillow has FreeType
    return font
