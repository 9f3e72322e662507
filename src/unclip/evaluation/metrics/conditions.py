"""What makes a figure comparable, and the refusal to put two that are not side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from unclip.common import json_text
from unclip.common.checks import nearest
from unclip.common.errors import UserError
from unclip.common.fields import as_dataclass


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """How a set of images was measured, and made. None where that is not known."""

    n: int | None = None  # generated images
    reference_n: int | None = None  # real images
    reference: str | None = None  # hash of their pixels
    features: str = ""  # name of the network
    sha256: str = ""  # of its weights
    resize: str = ""  # to the network's size
    precision: str = "32"  # bits of the network's arithmetic
    size: int | None = None  # pixels a side of the generated images
    bits: int = 8  # a channel, when features are taken
    neighbours: int = 3  # k of precision, recall, density and coverage
    probe: str | None = None  # hash of the weights of a linear probe
    captions: str | None = None  # hash of the list
    guidance: str | None = None  # of the sampling
    steps: str | None = None  # of the sampling
    seeds: str | None = None  # of the sampling
    samplers: str | None = None  # the stages' other settings
    sampled_in: str | None = None  # precision of the sampling


NAMES = tuple(f.name for f in fields(Conditions))


@dataclass(kw_only=True)
class Figure:
    """A measure's value, and the interval that holds the truth with 95 % where one is known."""

    value: float = 0.0
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.5g}"
        return f"{self.value:.5g} ({self.low:.4g} to {self.high:.4g})"


@dataclass(kw_only=True)
class ImagesEvaluation:
    """All figures of one set of images."""

    title: str = ""
    reference: str | None = None
    conditions: Conditions = field(default_factory=Conditions)
    figures: dict[str, Figure] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def lines_of(found: Sequence[ImagesEvaluation]) -> list[list[str]]:
    """A table of figures, then of the conditions; a column each."""
    names = dict.fromkeys(name for each in found for name in each.figures)
    lines = [["", *(each.title for each in found)]]
    for name in names:
        lines.append([name, *(str(each.figures.get(name, "")) for each in found)])
    every = [asdict(each.conditions) for each in found]
    for key in every[0]:
        if any(values[key] is not None for values in every):
            cells = ("" if values[key] is None else str(values[key]) for values in every)
            lines.append([key.replace("_", " "), *(cell[:32] for cell in cells)])
    return lines


def differences(evaluations: Sequence[ImagesEvaluation]) -> dict[str, list[Any]]:
    """The conditions in which ``evaluations`` differ, with the value of each."""
    values = {name: [getattr(e.conditions, name) for e in evaluations] for name in NAMES}
    return {name: each for name, each in values.items() if any(v != each[0] for v in each)}


def check_comparable(evaluations: Sequence[ImagesEvaluation], allowed: Sequence[str] = ()) -> None:
    """Refuse figures that were measured in different ways.

    Args:
        evaluations: To be shown side by side.
        allowed: Conditions that may differ.

    Raises:
        UserError: another one differs, or ``allowed`` has a word that is not a condition.
    """
    for name in allowed:
        if name not in NAMES:
            raise UserError(f"--allow-different {name}: is not a condition{nearest(name, NAMES)}")
    found = {k: v for k, v in differences(evaluations).items() if k not in allowed}
    if found:
        told = "; ".join(
            f"{name}: {', '.join('not known' if v is None else str(v)[:30] for v in values)}"
            for name, values in found.items()
        )
        raise UserError(
            f"{' and '.join(e.title for e in evaluations)} are not comparable, they differ in "
            f"{told}; to show them all the same add --allow-different {' '.join(found)}"
        )


def read_evaluation(path: Path, features: str | None = None) -> ImagesEvaluation:
    """What `unclip evaluate images --json` has printed, or `unclip evaluate cascade` written.

    Raises:
        UserError: it cannot be read, is something else, or has not one evaluation with
            ``features``.
    """
    try:
        content = json_text.read_object(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    several = content.get("evaluations", [content])
    form = isinstance(several, list) and all(
        isinstance(one, dict) and {"conditions", "figures"} <= set(one) for one in several
    )
    if not several or not form:
        raise UserError(
            f"{path}: is not the output of `unclip evaluate images --json` or `unclip evaluate "
            "cascade`"
        )
    found = [as_dataclass(ImagesEvaluation, one, f"{path}: ") for one in several]
    chosen = [one for one in found if features in (None, one.conditions.features)]
    if len(chosen) != 1:
        there = ", ".join(one.conditions.features for one in found)
        raise UserError(f"{path}: has figures of {there}; name one of them with --features")
    return chosen[0]
