"""Brings a bundle, wherever it is, verified into a folder."""

from __future__ import annotations

from pathlib import Path

from unclip.common.errors import UserError
from unclip.sharing import bundle as bundles
from unclip.sharing import members, remote


def fetch(place: str, scratch: Path) -> bundles.Bundle:
    """Unpack the bundle at ``place`` (zip, folder or URL) to ``bundle`` in the folder ``scratch``.

    Raises:
        UserError: one line that names the bundle, the member and what is wrong with it.
    """
    path, folder = Path(place), scratch / "bundle"
    folder.mkdir()
    if remote.is_remote(place):
        path = scratch / "fetched"
        path.mkdir()
        remote.download(place, path)
    try:
        with members.opened(path, place) as found:
            manifest = members.take(found, folder)
    except OSError as error:
        raise UserError(f"{place}: cannot be unpacked: {error.strerror or error}") from None
    return bundles.read(folder, manifest, place)
