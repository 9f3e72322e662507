"""What claims may say of the judges: one row for each. Imports no torch."""

from __future__ import annotations

from typing import Any, NamedTuple

from unclip.common.checks import nearest
from unclip.common.errors import UserError
from unclip.stages.row import CLIP, DECODER, PCA, PRIOR

PHOTOGRAPHS = "photographs"


class JudgeRow(NamedTuple):
    """A judge as claims see it."""

    needs: tuple[str, ...]  # kinds of parts
    options: tuple[str, ...]
    values: tuple[str, ...]  # of `unclip.reproduction.values`: what can be made of its records


RIGHT = ("right", "stated")
DRAWN = (CLIP, DECODER)
ROWS = {
    "drawing": JudgeRow(
        DRAWN,
        ("prompts", "images", "given", "settings", "one_z_i"),
        (*RIGHT, "diversity", "binding", "distance"),
    ),
    PHOTOGRAPHS: JudgeRow(DRAWN, ("images", "given", "settings", "one_z_i"), ("kid", "vendi")),
    "embeddings": JudgeRow((CLIP, PRIOR), ("prompts", "settings"), ("cosine", "dot")),
    "rank": JudgeRow((CLIP,), (), ("rank",)),
    "variations": JudgeRow(DRAWN, ("of", "images", "settings"), RIGHT),
    "edits": JudgeRow(DRAWN, ("theta", "settings"), RIGHT),
    "components": JudgeRow((*DRAWN, PCA), ("share", "settings"), RIGHT),
    "interpolations": JudgeRow(DRAWN, ("at", "settings"), RIGHT),
    "words": JudgeRow((CLIP,), ("word",), ("label",)),
    "rebuilding": JudgeRow(DRAWN, ("x_T", "settings"), ("psnr",)),
}
CHOICES = {
    "prompts": ("single", "pairs", "binding"),
    "given": ("prior", "z_t", "caption"),
    "of": ("own", "other"),
    "x_T": ("inverted", "new"),
}
FLAGS = ("one_z_i", "word")
SHARES = ("theta", "share", "at")


def check_options(judge: str, options: dict[str, Any], where: str = "") -> None:
    """Refuse options that a judge does not have; ``where`` begins the line.

    Raises:
        UserError: names the option.
    """
    for name, value in options.items():
        if name not in ROWS[judge].options:
            raise UserError(f"{where}options.{name}: unknown{nearest(name, ROWS[judge].options)}")
        if wanted := _wanted(name, value):
            raise UserError(f"{where}options.{name}={value!r}: must be {wanted}")


def _wanted(name: str, value: Any) -> str:
    """What an option must be, where ``value`` is not."""
    if name == "images":
        return "" if type(value) is int and value >= 1 else "a whole number above 0"
    if name == "settings":
        return "" if isinstance(value, dict) else "a section of stages"
    if name in FLAGS:
        return "" if isinstance(value, bool) else "true or false"
    if name in SHARES:
        number = type(value) in (int, float)
        return "" if number and 0 <= value <= 1 else "a number in [0, 1]"
    return "" if value in CHOICES[name] else f"one of {', '.join(CHOICES[name])}"
