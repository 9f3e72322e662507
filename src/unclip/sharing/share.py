"""Packs a run and puts the bundle where it is wanted."""

from __future__ import annotations

import re
from pathlib import Path

from unclip.common import artifacts
from unclip.common.errors import UserError
from unclip.common.inputs import require_apart
from unclip.runs.folders import trained
from unclip.sharing import remote, writing
from unclip.sharing.gather import gather, is_artifact


def share(run: str, to: str, *, weights: bool, licence: str, force: bool) -> str:
    """Share ``run`` (a folder or an experiment's name); returns where its bundle is.

    Args:
        run: See `unclip.sharing.gather.gather`.
        to: ``FILE.zip``, a folder, ``hf://USER/REPOSITORY`` or ``wandb://ENTITY/PROJECT/NAME``.
        weights: Whether the weights go in, of the run and of its parents.
        licence: An identifier of the hub's.
        force: Whether a bundle that is there is replaced.

    Raises:
        UserError: the run is not finished or not whole, or ``to`` cannot be written.
    """
    scheme = re.match(r"[\w+.-]+://", to)
    if scheme and not remote.is_remote(to):
        raise UserError(f"--to {to}: {scheme[0]} is not supported; give hf://, wandb:// or a path")
    if not to:
        raise UserError("--to: must not be empty")
    content = gather(run, weights=weights, licence=licence)
    if remote.is_remote(to):
        return remote.upload(content, to, force=force)
    if force:
        read = [path for path in content.values() if isinstance(path, Path)]
        if is_artifact(folder := trained(run)):
            read.append(artifacts.describe(folder).path.parent)
        require_apart(Path(to), read, option="--to ")
    write = writing.write_zip if to.endswith(".zip") else writing.write_folder
    write(content, Path(to), force=force)
    return to
