"""Bytes of an image or a caption to what a `Sample` holds, or a `BadSample` that says why not."""

from __future__ import annotations

import io
import json
import warnings
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from unclip.common.blank import is_blank
from unclip.common.errors import UserError, article
from unclip.data.config import MAX_ASPECT, MAX_PIXELS

# Pillow would run Ghostscript on an EPS file, and has decoders that nobody has looked at for years.
_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "GIF", "JPEG2000", "PPM", "TIFF")
_MAX_CAPTION = 10_000  # characters

# EXIF 2.32, section 4.6.4 A, tag 274: how the stored image must be turned to be upright.
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


@dataclass(frozen=True)
class Limits:
    """Which images are refused by their header, before anything is unpacked."""

    max_pixels: int = MAX_PIXELS  # at most twice the default, where Pillow itself stops
    max_aspect: float = MAX_ASPECT  # longer side over shorter
    named: bool = False  # whether they are settings of an experiment, to be named in messages

    def problem(self, width: int, height: int) -> str | None:
        """What is wrong with an image of this size, in pixels; None when nothing is."""
        if width * height > self.max_pixels:
            most = f"data.max_pixels={self.max_pixels}" if self.named else f"{self.max_pixels:,}"
            return f"{width}x{height} pixels are more than {most}"
        if not 0 < max(width, height) <= self.max_aspect * min(width, height):
            if self.named:
                return f"{width}x{height} pixels are beyond data.max_aspect={self.max_aspect:g}"
            times = f"{self.max_aspect:g} times"
            return f"{width}x{height} pixels: one side is more than {times} the other; crop it"
        return None


LIMITS = Limits()


def decode_image(data: bytes | None, *, where: str, limits: Limits = LIMITS) -> np.ndarray:
    """The upright RGB image ``uint8 [H, W, 3]`` in ``data``; transparency lies over white.

    Of an animation it is the first frame.

    Args:
        data: A whole image file of one of `_FORMATS`.
        where: Source and key, for the message.
        limits: A small file can unpack to more than the memory holds.

    Raises:
        BadSample: The bytes are missing, damaged, no image, or beyond ``limits``.
    """
    if not data:
        raise BadSample(f"{where}: the image is empty (0 bytes)")
    try:
        with warnings.catch_warnings():
            # Remarks on odd metadata, and on what `limits` allows, are no concern of a run.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                problem = limits.problem(*image.size)
                if problem is None:
                    image.load()
                    return upright_rgb(image)
    except Image.UnidentifiedImageError:
        problem = f"not an image that can be read (it starts with {data[:8]!r})"
    except Image.DecompressionBombError:  # raised while the header is read
        most = f"data.max_pixels={limits.max_pixels}" if limits.named else f"{limits.max_pixels:,}"
        problem = f"it has more pixels than {most}"
    except Exception as error:  # a damaged file can raise nearly anything inside a codec
        problem = f"the image is damaged ({' '.join(str(error).split()) or type(error).__name__})"
    raise BadSample(f"{where}: {problem}")


def upright_rgb(image: Image.Image) -> np.ndarray:
    """An opened image as `decode_image` returns it; ValueError where its mode has no range."""
    turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION_TAG, 1))
    rgb = _to_rgb(image)
    return np.array(rgb if turn is None else rgb.transpose(turn))


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
        BadSample: There is none, or one is empty, not text or far too long.
    """
    values = value if isinstance(value, list) else [value]
    if value is None or not values:
        raise BadSample(f"{where}: it has no caption")
    return [_decode_caption(one, where=where) for one in values]


def _decode_caption(value: Any, *, where: str) -> str:
    if not isinstance(value, (str, bytes)):
        raise BadSample(f"{where}: the caption is {article(type(value).__name__)}, not text")
    try:
        # A str is checked as well: bytes that were read with surrogates are not UTF-8 either.
        caption = (value if isinstance(value, bytes) else value.encode()).decode("utf-8-sig")
    except UnicodeError:
        utf16 = isinstance(value, bytes) and value[:2] in (b"\xff\xfe", b"\xfe\xff")
        form = " (UTF-16; save it as UTF-8)" if utf16 else ""
        raise BadSample(f"{where}: the caption is not UTF-8 text{form}") from None
    caption = caption.strip()
    if "\0" in caption:
        raise BadSample(f"{where}: the caption has a NUL character, so it is not text")
    if is_blank(caption):
        raise BadSample(f"{where}: the caption is empty")
    if len(caption) > _MAX_CAPTION:
        raise BadSample(
            f"{where}: the caption has {len(caption)} characters, more than {_MAX_CAPTION}"
        )
    return caption


def parse_json(data: bytes | str) -> Any:
    """What ``data`` says as JSON; ValueError for anything else, however deeply it is nested."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None


class Fields(NamedTuple):
    """What a .json beside an image says of it."""

    caption: Any  # of `caption` or `text`; None where it has neither
    z_i: np.ndarray | None  # float32 [D], of `z_i`: what the image was drawn from


def json_fields(data: bytes, *, where: str) -> Fields:
    """What counts of a .json; raises `BadSample` if it cannot be read, or its z_i no embedding."""
    fields = _object(data, where=where)
    numbers = fields.get("z_i")
    z_i = None if numbers is None else _embedding(numbers)
    if numbers is not None and z_i is None:
        raise BadSample(f"{where}: the z_i of its .json is not a list of finite numbers, not all 0")
    return Fields(_caption_of(fields), z_i)


def json_caption(data: bytes, *, where: str) -> Any:
    """The `caption` or `text` of a .json beside an image; None where it has none."""
    return _caption_of(_object(data, where=where))


def _caption_of(fields: dict[str, Any]) -> Any:
    return fields.get("caption", fields.get("text"))


def _object(data: bytes, *, where: str) -> dict[str, Any]:
    try:
        fields = parse_json(data)
    except ValueError:
        raise BadSample(f"{where}: its .json cannot be read") from None
    return fields if isinstance(fields, dict) else {}


def _embedding(numbers: Any) -> np.ndarray | None:
    """float32 ``[D]``; None where it cannot be one."""
    if not isinstance(numbers, list) or any(type(one) not in (int, float) for one in numbers):
        return None
    try:
        with np.errstate(over="ignore"):
            z_i = np.array(numbers, dtype=np.float32)
    except OverflowError:  # of an integer
        return None
    return z_i if z_i.any() and np.isfinite(z_i).all() else None
