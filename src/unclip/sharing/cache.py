"""The cascade that a user names: a folder, a bundle unpacked into the cache, a published one.

Bundles are unpacked as carefully as for `unclip reproduce`.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from unclip.common.errors import UserError
from unclip.common.scratch import scratch_folder
from unclip.config.cascades import find_cascade, meant
from unclip.data.files import cache_folder
from unclip.pipeline.folder import require_there
from unclip.runs.published import fetch
from unclip.sharing import bundle as bundles
from unclip.sharing import members
from unclip.sharing.layout import MANIFEST, WEIGHTS, limit_of, read_manifest


def is_bundle(path: Path) -> bool:
    """Whether ``path`` is a file, or a folder with a bundle's manifest."""
    return path.is_file() or (path / MANIFEST).is_file()


def cascade_folder(word: Path | str) -> Path:
    """The folder with the stages of the cascade that ``word`` names.

    It is a folder itself; a bundle, which is unpacked once and found again by its manifest, which
    has the checksums of all files; or a published cascade, which is downloaded and imported once.

    Raises:
        UserError: the bundle is refused, is not of a cascade, or has no weights; a published
            cascade cannot be fetched.
    """
    if (named := find_cascade(str(word))) is not None:
        return fetch(named)
    path = Path(word)
    if not path.exists():
        require_there(word, meant(str(word)))
    if not is_bundle(path):
        return path
    place, home = f"pipeline={path}", cache_folder("bundles")
    try:
        home.mkdir(parents=True, exist_ok=True)
        with members.opened(path, place) as found:
            ready = home / _key(found)
            if ready.is_dir():
                members.check_names(found, read_manifest(ready / MANIFEST, place))
            else:
                _unpack(found, ready)
    except OSError as error:
        raise UserError(f"{place}: cannot be unpacked: {error.strerror or error}") from None
    return ready


def _key(found: members.Members) -> str:
    """The checksum of a bundle's manifest."""
    if MANIFEST not in found.names:
        raise UserError(f"{found.bundle}: is not a bundle: it has no {MANIFEST}")
    with found.open(MANIFEST) as file:
        return hashlib.sha256(file.read(limit_of(MANIFEST))).hexdigest()


def _unpack(found: members.Members, ready: Path) -> None:
    place = found.bundle
    with scratch_folder(ready.parent, ".bundle-") as scratch:
        folder = scratch / "bundle"
        folder.mkdir()
        manifest = members.take(found, folder)
        if not manifest.cascade:
            raise UserError(
                f"{place}: is a bundle of the run {manifest.experiment}; give one of a cascade "
                "(`unclip share CASCADE_FOLDER --weights`)"
            )
        if any(manifest.prefix(name) + WEIGHTS not in manifest.files for name in manifest.parts):
            raise UserError(
                f"{place}: has no weights; `unclip reproduce` trains them, or share the cascade "
                "with --weights"
            )
        bundles.read(folder, manifest, place)
        try:
            os.replace(folder, ready)
        except OSError:
            if not ready.is_dir():  # another process was faster
                raise
