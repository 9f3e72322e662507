"""MS-COCO captions: `annotations/captions_*.json` and the folder of its images."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path
from typing import Any

from unclip.common.counted import counted
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
        silent: Whether images without annotations count; otherwise they are left out.

    Raises:
        UserError: The file is not of COCO's form, or no image of it is found.
    """

    def __init__(
        self,
        path: str | Path,
        images: str | None = None,
        *,
        limits: Limits = LIMITS,
        silent: bool = False,
    ):
        listing = _listing(str(path), silent)
        folder = os.path.expanduser(images or _folder(str(path), list(listing.captions)))
        super().__init__(folder, listing, limits)


def _listing(path: str, silent: bool) -> Listing:
    data = files.read(path)
    try:
        content = parse_json(data)
        # Some writers give ids as numbers in one list and as texts in the other.
        names: dict[str, Any] = {}
        where = f"data.source: {path}"
        for number, image in enumerate(content["images"]):
            named = f"{where}: images[{number}]"
            identity = identity_of(image, "id", named)
            name = inside(_field(image, "file_name", named), where=f"{named} (id {identity})")
            if names.setdefault(identity, name) != name:
                raise UserError(
                    f"data.source: {path}: two images have the id {identity}: "
                    f"{names[identity]!r} and {name!r}; give each an id of its own"
                )
        said: dict[str, list[Any]] = {}
        for number, annotation in enumerate(content["annotations"]):
            named = f"{where}: annotations[{number}]"
            identity = identity_of(annotation, "image_id", named)
            add(said, identity, _field(annotation, "caption", named))
    except ValueError as error:
        raise UserError(f"data.source: {path} is not JSON ({error})") from None
    except (KeyError, TypeError):
        raise UserError(
            f"data.source: {path} is not of COCO's form: images [{{id, file_name}}] and "
            "annotations [{image_id, caption}]"
        ) from None
    captions: dict[str, list[Any]] = {}
    without = 0
    for identity, name in names.items():
        if identity in said or silent:
            add(captions, name, said.get(identity))
        else:
            without += 1
    if names and not captions:
        known = f"{next(iter(names))!r}, ..."
        given = f"{next(iter(said))!r}, ..." if said else "nothing"
        raise UserError(
            f"data.source: {path}: no annotation is of one of its images: their id is {known}, "
            f"image_id is {given}"
        )
    if without:
        left = f"{counted(without, 'image')} left out, without a caption"
        logger.warning("data.source: %s: %s", path, left)
    return Listing(
        captions, hashlib.blake2b(data, digest_size=8).hexdigest(), files.last_part(path)
    )


def _field(entry: Any, key: str, where: str) -> Any:
    """``entry[key]``; raises a `UserError` that names the entry, by its id if it has one."""
    if not isinstance(entry, dict):
        raise UserError(f"{where} is {str(entry)[:50]!r}; it must be an object with {key}")
    if key not in entry:
        ids = [f"{name} {entry[name]}" for name in ("id", "image_id") if name in entry]
        named = f" ({str(ids[0])[:50]})" if ids else ""
        raise UserError(f"{where}{named} has no {key}; add it, or remove the entry")
    return entry[key]


def identity_of(entry: Any, key: str, where: str) -> str:
    """An image's id as text, whether it was written as a number or a text."""
    value = _field(entry, key, where)
    if not isinstance(value, (str, int, float)):
        raise UserError(f"{where}: {key}: {str(value)[:50]!r} must be a number or a text")
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
