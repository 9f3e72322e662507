"""Adapters that are added to weights as they are loaded, each so often."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from unclip.common import artifacts
from unclip.common.adapters import TOKEN
from unclip.common.artifacts import Artifact, Merging
from unclip.common.errors import UserError
from unclip.common.meaning import meaning


def read_adapter(
    word: str, *, key: str = "ADAPTER", tokens: bool = False
) -> tuple[Artifact, float]:
    """``PATH`` or ``PATH:WEIGHT``: an adapter, and how often it counts (once).

    ``tokens`` says that a learned word will do as well, which has no weight.

    Raises:
        UserError: it is not an adapter.
    """
    path, weight = word, 1.0
    head, colon, tail = word.rpartition(":")
    if colon and not Path(word).exists():
        try:
            path, weight = head, float(tail)
        except ValueError:
            raise UserError(f"{key}={word}: {tail!r} is not a number; give PATH:WEIGHT") from None
    if not abs(weight) < 1e6:  # nan too
        raise UserError(f"{key}={word}: the weight must be a finite number")
    found = artifacts.describe(path, key=key)
    if found.adapter is None:
        raise UserError(f"{key}={path}: has whole weights; give a run with adapter.kind=lora")
    if found.adapter.kind == TOKEN and not tokens:
        raise UserError(
            f"{key}={path}: is a learned word, which changes no weights; give a run with "
            "adapter.kind=lora"
        )
    if found.adapter.kind == TOKEN and weight != 1:
        raise UserError(f"{key}={word}: is a learned word, which has no weight; give {path}")
    return found, weight


def require_alike(adapters: Sequence[Artifact], *, key: str = "ADAPTER") -> None:
    """Refuse adapters of one base that cannot count together.

    Raises:
        UserError: one is given twice, or was trained with settings that mean something else.
    """
    for number, each in enumerate(adapters[1:], 1):
        if each.sha256 in (other.sha256 for other in adapters[:number]):
            raise UserError(f"{key}={each.path}: is given twice; {each.path}:2 counts it twice")
        first = adapters[0]
        mine, others = meaning(each.config), meaning(first.config)
        for name in sorted(mine.keys() | others.keys()):
            if mine.get(name) != others.get(name):
                raise UserError(
                    f"{key}={each.path}: {name} is {mine.get(name)}, of {first.path} "
                    f"{others.get(name)}; merge adapters that were trained with the same"
                )


def with_adapters(paths: Sequence[Path | str], words: Sequence[str]) -> list[Path | str | Artifact]:
    """The artifacts in ``paths``, each with those adapters that are of its weights.

    What several weigh adds up, as `unclip merge` has it; settings are the first adapter's.

    Args:
        paths: Of the stages of a cascade.
        words: Of `read_adapter`.

    Raises:
        UserError: an adapter is of none of them.
    """
    if isinstance(words, str) or not all(isinstance(word, str) for word in words):
        raise UserError(f"adapters={words!r}: must be a list of texts, as ['runs/mine:0.5']")
    given = [read_adapter(word, key="adapter", tokens=True) for word in words]
    if not given:
        return list(paths)
    parts = [artifacts.describe(path) for path in paths]
    bases = [part if part.adapter is None else part.base for part in parts]
    for adapter, _ in given:
        wanted = adapter.parent("init")
        if wanted not in [base.sha256 for base in bases]:
            there = ", ".join(f"{base.stage} {base.sha256[:12]}" for base in bases)
            raise UserError(
                f"adapter={adapter.path}: was trained on the weights {str(wanted)[:12]}, which are "
                f"not in this cascade ({there}); give the cascade that it was trained on"
            )
    found: list[Path | str | Artifact] = []
    for path, part, base in zip(paths, parts, bases, strict=True):
        own = tuple(each for each in given if each[0].parent("init") == base.sha256)
        require_alike([adapter for adapter, _ in own], key="adapter")
        merging = Merging(part, own)
        found.append(dataclasses.replace(own[0][0], merging=merging) if own else path)
    return found
