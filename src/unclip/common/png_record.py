"""What a PNG says of itself: JSON under the key ``unclip``, and the caption where viewers look."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile, PngInfo

from unclip.common.errors import UserError

KEY = "unclip"
CAPTION = "Description"  # the PNG specification's word, which viewers show
DAMAGED = "its record of how it was sampled is damaged; give the PNG as unclip wrote it"
Record = dict[str, Any]
"""Plain values; the same record makes the same bytes."""


def chunks(record: Record | None) -> PngInfo | None:
    """What Pillow writes into a PNG as ``pnginfo``."""
    if record is None:
        return None
    info = PngInfo()
    if isinstance(caption := record.get("caption"), str):
        info.add_itxt(CAPTION, caption)
    info.add_itxt(KEY, json.dumps(record, ensure_ascii=False, sort_keys=True))
    return info


def read_record(path: Path) -> Record:
    """The record of a PNG.

    Raises:
        UserError: it cannot be read, or has none.
    """
    try:
        with Image.open(path) as image:
            texts = image.text if isinstance(image, PngImageFile) else {}
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        why = getattr(error, "strerror", None) or "not an image that can be read"
        raise UserError(f"{path}: {why}") from None
    except Image.DecompressionBombError:
        raise UserError(f"{path}: has too many pixels") from None
    if KEY not in texts:
        raise UserError(
            f"{path}: does not say how it was sampled; give a PNG that unclip wrote, as it was "
            "written (programs that edit or send images often remove what they say)"
        )
    try:
        record = json.loads(texts[KEY])
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise UserError(f"{path}: {DAMAGED}")
    return record
