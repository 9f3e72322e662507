"""Whole weights of a base and its adapters."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unclip.common import artifacts
from unclip.common.adapters import AdapterConfig
from unclip.common.added import read_adapter, require_alike
from unclip.common.artifacts import Artifact
from unclip.common.errors import UserError

FROM_NOTHING: dict[str, Any] = {"init": None, "init_skip": [], "init_teaches": None}
"""What a configuration says that begins from no weights."""


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
    for each, _ in adapters[1:]:
        if each.base.sha256 != base.sha256:
            raise UserError(
                f"ADAPTER={each.path}: was trained on the weights {each.base.sha256[:12]}, "
                f"{first.path} on {base.sha256[:12]}; merge adapters of one base"
            )
    require_alike([each for each, _ in adapters])
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
        config=config | {key: value for key, value in FROM_NOTHING.items() if key in config},
        provenance={**first.provenance, "merged": merged},
        embed_dim=first.embed_dim,
        clip_fingerprint=first.clip_fingerprint,
        files=files,
    )
