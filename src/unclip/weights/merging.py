"""Whole weights of a base and its adapters."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from unclip.common import artifacts
from unclip.common.adapters import AdapterConfig
from unclip.common.artifacts import Artifact
from unclip.common.errors import UserError
from unclip.common.meaning import meaning


def read_adapter(word: str) -> tuple[Artifact, float]:
    """``PATH`` or ``PATH:WEIGHT``: an adapter, and how often it counts (once).

    Raises:
        UserError: it is no adapter.
    """
    path, weight = word, 1.0
    head, colon, tail = word.rpartition(":")
    if colon and not Path(word).exists():
        try:
            path, weight = head, float(tail)
        except ValueError:
            raise UserError(f"ADAPTER={word}: {tail!r} is no number; give PATH:WEIGHT") from None
    if not abs(weight) < 1e6:  # nan too
        raise UserError(f"ADAPTER={word}: the weight must be a finite number")
    found = artifacts.describe(path, key="ADAPTER")
    if found.adapter is None:
        raise UserError(f"ADAPTER={path}: has whole weights; give a run with adapter.kind=lora")
    return found, weight


def merge(words: Sequence[str], out: Path) -> Artifact:
    """Write the base with all of the adapters as an artifact of its own.

    Args:
        words: Of `read_adapter`; all of one base.
        out: A folder that is not there.

    Raises:
        UserError: their bases differ or are not found.
    """
    adapters = [read_adapter(word) for word in words]
    first, base = adapters[0][0], adapters[0][0].base
    for number, (each, _) in enumerate(adapters[1:], 1):
        if each.sha256 in (other.sha256 for other, _ in adapters[:number]):
            raise UserError(f"ADAPTER={each.path}: is given twice; {each.path}:2 counts it twice")
        if each.base.sha256 != base.sha256:
            raise UserError(
                f"ADAPTER={each.path}: is of the weights {each.base.sha256[:12]}, "
                f"{first.path} of {base.sha256[:12]}; merge adapters of one base"
            )
        mine, others = meaning(each.config), meaning(first.config)
        for key in sorted(mine.keys() | others.keys()):
            if mine.get(key) != others.get(key):
                raise UserError(
                    f"ADAPTER={each.path}: {key} is {mine.get(key)}, of {first.path} "
                    f"{others.get(key)}; merge adapters that were trained with the same"
                )
    weights = base.weights()
    for each, weight in adapters:
        assert each.adapter is not None
        weights = each.merge(weights, weight * each.adapter.scale)
    config = {**first.config, "adapter": dataclasses.asdict(AdapterConfig())}
    merged = [{"sha256": each.sha256, "weight": weight} for each, weight in adapters]
    files = {name: base.path / name for name in artifacts.MORE if (base.path / name).is_file()}
    return artifacts.export(
        out,
        stage=first.stage,
        weights=weights,
        config={**config, "init": None, "init_skip": []},
        provenance={**first.provenance, "merged": merged},
        embed_dim=first.embed_dim,
        clip_fingerprint=first.clip_fingerprint,
        files=files,
    )
