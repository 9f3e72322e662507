"""Bytes of an image or a caption to what a `Sample` holds, or a `BadSample` that says why not."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
from PIL import Image

from unclip.types import UserError

# EXIF 2.32, section 4.6.4 A, tag 274: how the stored picture must be turned to be upright.
_ORIENTATION_TAG = 274
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BadSample(UserError):
    """One sample that cannot be used; `data.on_error` decides whether it stops the run."""


def decode_image(data: bytes | None, *, where: str) -> np.ndarray:
    """The upright RGB picture ``uint8 [H, W, 3]`` in ``data``; transparency lies over white.

    Args:
        data: A whole image file of any format that Pillow reads.
        where: Source and key, for the message.

    Raises:
        BadSample: The bytes are missing, damaged, no image, or of more than Pillow's limit of
            about 89 megapixels (a small file can unpack to more than the memory holds).
    """
    if not data:
        raise BadSample(f"{where}: the image is empty (0 bytes)")
    try:
        with warnings.catch_warnings():
            # Remarks on odd metadata are no concern of a training run; a huge picture is.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as image:
                image.load()
                turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION_TAG, 1))
                rgb = _to_rgb(image)
                return np.array(rgb if turn is None else rgb.transpose(turn))
    except Image.UnidentifiedImageError:
        problem = f"not an image that can be read (it starts with {data[:8]!r})"
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        problem = f"more than {(Image.MAX_IMAGE_PIXELS or 0) // 10**6} megapixels"
    except Exception as error:  # a damaged file can raise nearly anything inside a codec
        problem = f"the image is damaged ({' '.join(str(error).split()) or type(error).__name__})"
    raise BadSample(f"{where}: {problem}")


def _to_rgb(image: Image.Image) -> Image.Image:
    """``image`` in mode RGB, whatever mode it was stored in."""
    if image.mode.startswith("I"):  # 16-bit grey: `convert` would clip at 255 instead of scaling
        grey = np.clip(np.asarray(image).astype(np.int64), 0, 65535) >> 8
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("float pixels have no fixed range")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def decode_captions(value: Any, *, where: str) -> list[str]:
    """The captions in ``value``: a text, its UTF-8 bytes, or a list of these.

    Raises:
        BadSample: There is none, one is empty, or one is not text.
    """
    values = value if isinstance(value, list) else [value]
    if value is None or not values:
        raise BadSample(f"{where}: it has no caption")
    return [_decode_caption(one, where=where) for one in values]


def _decode_caption(value: Any, *, where: str) -> str:
    if not isinstance(value, (str, bytes)):
        raise BadSample(f"{where}: the caption is a {type(value).__name__}, not text")
    try:
        # A str is checked as well: bytes that were read with surrogates are not UTF-8 either.
        caption = (value if isinstance(value, bytes) else value.encode()).decode()
    except UnicodeError:
        raise BadSample(f"{where}: the caption is not UTF-8 text") from None
    caption = caption.strip()
    if not caption:
        raise BadSample(f"{where}: the caption is empty")
    return caption
