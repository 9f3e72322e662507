"""The stages of a cascade that `unclip plan` is asked about: of a folder, or not fetched yet."""

from __future__ import annotations

from pathlib import Path

from unclip.common import artifacts
from unclip.common.errors import UserError
from unclip.config.cascades import NamedCascade
from unclip.pipeline.folder import require_there
from unclip.planning.sampling import StagePart
from unclip.runs.published import imported_folder
from unclip.stages import registry
from unclip.stages.row import CLIP, DECODER, PRIOR, UPSAMPLER
from unclip.weights.hub import open_source
from unclip.weights.importing import find


def parts_of_folder(root: Path) -> list[StagePart]:
    """Those that `unclip sample` would load; a prior alone counts too.

    Raises:
        UserError: it is no cascade.
    """
    require_there(root)
    folders = [root / name for name in (CLIP, DECODER, PRIOR)]
    folders += sorted(root.glob(f"{UPSAMPLER}*"))
    parts = []
    for folder in folders:
        if folder.is_dir():
            found = artifacts.describe(folder)
            experiment = found.stored(registry.stage(found.stage, str(folder)).experiment)
            file = (found.path / "weights.safetensors").stat().st_size
            parts.append(StagePart(folder.name, found.stage, experiment, file))
    if not parts:
        raise UserError(f"pipeline={root}: no stages in it; give a cascade's folder")
    return parts


def parts_of_published(cascade: NamedCascade) -> list[StagePart]:
    """Those of the imported folder; else what its file says; else what the sources' say.

    Raises:
        UserError: the sources cannot be reached, or are of no cascade.
    """
    folder = imported_folder(cascade)
    if folder.is_dir():
        return parts_of_folder(folder)
    stages = cascade.stages
    if not stages:  # of the hub only configurations are fetched
        for spec in reversed([cascade.published.clip, *cascade.published.sources]):
            found = find(open_source(spec), half=False) if spec else []
            stages = stages | {each.stage: each.experiment for each in found}
    return [StagePart(registry.STAGES[n].kind, n, each) for n, each in stages.items()]
