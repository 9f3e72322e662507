"""Where the parents of an artifact are after the folder that holds them all was moved."""

from __future__ import annotations

from pathlib import Path

from unclip.common.artifacts import Artifact
from unclip.common.errors import UserError


def locate_parent(artifact: Artifact, key: str, *, fix: str = "") -> str:
    """The parent ``key`` (clip, pca): where the config says, or beside the run.

    A cascade has its stages side by side, so a folder ``clip`` beside the run is the CLIP that has
    moved with it. Whether it has the weights is for the caller to check.

    Args:
        artifact: Of the run that depends on it.
        key: The field of its config.
        fix: What else the user can do, as the end of a sentence.

    Raises:
        UserError: it is in neither place.
    """
    spec = str(artifact.config[key])
    if spec.startswith("open_clip:") or Path(spec).is_dir():
        return spec
    home = artifact.path.resolve()
    run = home.parent if home.name == "artifact" else home
    beside = run.parent / key
    if any((beside / folder / "artifact.json").is_file() for folder in (".", "artifact")):
        return str(beside)
    raise UserError(
        f"{artifact.path / 'config.yaml'}: {key}={spec}: no such artifact, and none in {beside}; "
        f"copy the {key} that it was trained with to one of them{fix}"
    )
