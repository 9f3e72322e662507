"""What raters are asked, and what the paper's raters said (arXiv 2204.06125, table 1)."""

from __future__ import annotations

from typing import NamedTuple

GRID = 4  # images a side of a grid


class Question(NamedTuple):
    """One of the paper's three questions about a pair."""

    ask: str
    images: int  # of one caption on each side
    shows_caption: bool
    paper: dict[str, tuple[float, float]]  # what won against GLIDE, in %, and its ± 95 %


QUESTIONS = {
    "photorealism": Question(
        "Which image looks more real?",
        1,
        False,
        {"AR prior": (47.1, 3.1), "diffusion prior": (48.9, 3.1)},
    ),
    "caption": Question(
        "Which image matches the caption better?",
        1,
        True,
        {"AR prior": (41.1, 3.0), "diffusion prior": (45.3, 3.0)},
    ),
    "diversity": Question(
        "Which set of images is more diverse?",
        GRID**2,
        False,
        {"AR prior": (62.6, 3.0), "diffusion prior": (70.5, 2.8)},
    ),
}
SIDES = ("left", "right")
ARMS = ("a", "b")
UNSURE = "unsure"
