"""What a run reads. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from unclip.common.fields import leaves
from unclip.config.load import ResolvedExperiment
from unclip.data.config import BUILT_IN


def inputs_of(resolved: ResolvedExperiment) -> list[str | Path]:
    """What an experiment reads: its files, its data and its parents."""
    config = resolved.as_dict()
    found: list[str | Path] = [*resolved.files]
    for key, value in leaves(config.get("data", {})):
        if key.split(".")[-1] in ("source", "embeddings") and value not in (None, *BUILT_IN):
            found.append(value)
    for spec in [*(config[kind] for kind in resolved.stage.parents), config.get("init")]:
        if spec is not None:
            found += [spec, newest_artifact(spec, resolved.config.run.root) or ""]
    return found


def newest_artifact(name: str, root: str = "runs") -> Path | None:
    """The artifact of the newest finished run of the experiment ``name``."""
    found = sorted((Path(root) / name).glob("*/artifact/artifact.json"))
    return found[-1].parent if found else None
