"""MS-COCO captions: `annotations/captions_*.json` and the folder of its images."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path
from typing import Any

from unclip.common.errors import UserError
from unclip.data import files
from unclip.data.decode import LIMITS, Limits, parse_json
from unclip.data.readers.folder import FileSource
from unclip.data.readers.listings import Listing, add, inside

logger = logging.getLogger(__name__)


class CocoSource(FileSource):
    """The images of a captions file that have captions, in the file's order.

    Args:
        path: The captions file, a local path or a URL.
        images: Where its images are; without it they are looked for in the usual places.
        limits: Which images are refused.

    Raises:
        UserError: The file is not of COCO's form, or no image of it is found.
    """

    def __init__(self, path: str | Path, images: str | None = None, *, limits: Limits = LIMITS):
        listing = _listing(str(path))
        folder = os.path.expanduser(images or _folder(str(path), list(listing.captions)))
        super().__init__(folder, listing, limits)


def _listing(path: str) -> Listing:
    data = files.read(path)
    try:
        content = parse_json(data)
        # Some writers give ids as numbers in one list and as texts in the other.
        names: dict[str, Any] = {}
        for image in content["images"]:
            identity, name = _identity(image["id"]), image["file_name"]
            if names.setdefault(identity, name) != name:
                raise UserError(
                    f"data.source: {path}: two images have the id {identity}: "
                    f"{names[identity]!r} and {name!r}; give each an id of its own"
                )
        said: dict[str, list[Any]] = {}
        for annotation in content["annotations"]:
            add(said, _identity(annotation["image_id"]), annotation["caption"])
    except ValueError as error:
        raise UserError(f"data.source: {path} is not JSON ({error})") from None
    except (KeyError, TypeError):
        raise UserError(
            f"data.source: {path} is not of COCO's form: images [{{id, file_name}}] and "
            "annotations [{image_id, caption}]"
        ) from None
    captions: dict[str, list[Any]] = {}
    silent = 0
    for identity, name in names.items():
        if identity in said:
            add(captions, inside(name, where=f"data.source: {path}"), said[identity])
        else:
            silent += 1
    if names and not captions:
        known = f"{next(iter(names))!r}, ..."
        given = f"{next(iter(said))!r}, ..." if said else "nothing"
        raise UserError(
            f"data.source: {path}: no annotation is of one of its images: their id is {known}, "
            f"image_id is {given}"
        )
    if silent:
        logger.warning("data.source: %s: %d images without captions are left out", path, silent)
    return Listing(
        captions, hashlib.blake2b(data, digest_size=8).hexdigest(), files.last_part(path)
    )


def _identity(value: Any) -> str:
    if not isinstance(value, (str, int, float)):
        raise TypeError("an id is a number or a text")
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def _folder(path: str, names: list[str]) -> str:
    """The folder of the images: the first of the usual places that has one of the first few."""
    here = (path if files.is_url(path) else os.path.abspath(path)).rpartition("/")[0]
    above = here.rpartition("/")[0]
    split = files.last_part(path).removesuffix(".json").partition("_")[2]  # captions_train2017
    usual = [f"{above}/{split}", f"{above}/images/{split}", f"{above}/images"]
    for folder in (*usual, f"{here}/{split}", f"{here}/images", here):
        if any(files.exists(files.join(folder, name)) for name in names[:8]):
            return folder
    raise UserError(
        f"data.source: {path}: none of its first images is in {', '.join(usual)} or beside it; "
        f"say where they are: {path}?images=FOLDER"
    )
