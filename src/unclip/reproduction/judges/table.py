"""What claims may say of the judges: one row for each. Imports no torch."""

from __future__ import annotations

from typing import Any, NamedTuple

from unclip.common.checks import nearest
from unclip.common.errors import UserError


class JudgeRow(NamedTuple):
    """A judge as claims see it."""

    options: tuple[str, ...]
    values: tuple[str, ...]  # of `unclip.reproduction.values`: what can be made of its records


ROWS = {
    "drawing": JudgeRow(
        ("prompts", "images", "given", "settings", "one_z_i"),
        ("right", "stated", "diversity", "binding", "distance"),
    ),
    "photographs": JudgeRow(("images", "given", "settings", "one_z_i"), ("kid", "vendi")),
    "embeddings": JudgeRow(("prompts", "settings"), ("cosine", "dot")),
    "rank": JudgeRow((), ("rank",)),
    "variations": JudgeRow(("of", "images", "settings"), ("right", "stated")),
    "edits": JudgeRow(("theta", "settings"), ("right", "stated")),
    "components": JudgeRow(("share", "settings"), ("right", "stated")),
    "interpolations": JudgeRow(("at", "settings"), ("right", "stated")),
    "words": JudgeRow(("word",), ("label",)),
    "rebuilding": JudgeRow(("x_T", "settings"), ("psnr",)),
}


def check_options(judge: str, options: dict[str, Any], where: str = "") -> None:
    """Refuse options that a judge does not have; ``where`` begins the line.

    Raises:
        UserError: names the option.
    """
    for name, value in options.items():
        if name not in ROWS[judge].options:
            raise UserError(f"{where}options.{name}: unknown{nearest(name, ROWS[judge].options)}")
        if name == "images" and not (type(value) is int and value >= 1):
            raise UserError(f"{where}options.images={value!r}: must be a whole number above 0")
        if name == "settings" and not isinstance(value, dict):
            raise UserError(f"{where}options.settings={value!r}: must be a section of stages")
