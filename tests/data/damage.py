"""Every kind of damaged input of docs/data_damage.md: how to make it, and what comes of it."""

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image
from tiny_data import (
    picture,
    png,
    records,
    write_folder,
    write_sidecars,
)

GOOD = 8  # samples beside the one that is called `bad`


@dataclass(frozen=True)
class Used:
    """The sample comes out with either policy."""

    how: str = "used"
    check: Callable = lambda sample: True
    log: str = ""  # what is logged when the source is opened

    @property
    def cells(self):
        return self.how, self.how


@dataclass(frozen=True)
class LeftOut:
    """One sample cannot be used, for ``reason``."""

    reason: str
    after: Callable = lambda path: None  # done to the source once it is open
    cells = "left out", "stops, naming the sample"


@dataclass(frozen=True)
class Counted:
    """The file ``name`` is not a part of a sample: it is counted, for ``reason``."""

    name: str
    reason: str
    cells = "not read; counted with the reason", "not read; counted with the reason"


@dataclass(frozen=True)
class Whole:
    """``left`` samples can be read."""

    left: int
    cells = "members before the damage are used; logged", "stops, naming the file"


@dataclass(frozen=True)
class Stops:
    """Nothing is opened, for ``reason``."""

    reason: str
    where: str = "file"

    @property
    def cells(self):
        return f"stops, naming the {self.where}", f"stops, naming the {self.where}"


CASES = {}


def case(name, outcome):
    def register(make):
        CASES[name] = (make, outcome)
        return make

    return register


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photo():
    """An image that JPEG changes little."""
    ramp = np.linspace(40, 200, 64, dtype=np.uint8)
    channels = np.broadcast_arrays(ramp, ramp[:, None], np.uint8(128))
    return Image.fromarray(np.stack(channels, axis=-1))


JPEG = encoded(photo(), "jpeg", quality=95)
BAD = png(picture(GOOD))
ROWS = [*records(GOOD), ("bad", BAD, "the bad one")]


def near(pixels, tolerance=6):
    return lambda sample: np.abs(sample.image.astype(int) - np.asarray(pixels)).max() <= tolerance


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_size(width, height):
    """A few bytes that claim to be a large image."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


# --- images ---------------------------------------------------------------------------------------

ORIENTED = Image.Exif()
ORIENTED[274] = 6
PALETTE = Image.new("P", (12, 12), 1)
PALETTE.putpalette([9, 8, 7, 1, 2, 3])
SIXTEEN = np.full((12, 12), 32768, dtype=np.uint16)
FRAMES = [Image.new("RGB", (12, 12), colour) for colour in ("red", "blue")]
WHITE = np.full((12, 12, 3), 255)

IMAGES = {
    "image of zero bytes": (b"", LeftOut("empty")),
    "text named .png": (b"plain text", LeftOut("not an image that can be read")),
    "JPEG cut off": (JPEG[: len(JPEG) // 2], LeftOut("damaged .*truncated")),
    "PNG cut off": (BAD[: len(BAD) // 2], LeftOut("damaged")),
    "PNG with a flipped bit": (
        BAD[:100] + bytes([BAD[100] ^ 1]) + BAD[101:],
        LeftOut("damaged"),
    ),
    "JPEG with rubbish after its end": (JPEG + b"\xff\xd8" * 500, Used(check=near(photo()))),
    "decompression bomb (a PNG header of 50000x50000)": (
        png_of_size(50_000, 50_000),
        LeftOut("max_pixels"),
    ),
    "image of more than data.max_pixels": (
        encoded(Image.new("1", (10_000, 9_000)), "png"),
        LeftOut("10000x9000 pixels are more than data.max_pixels"),
    ),
    "image of 1x5000": (encoded(Image.new("L", (1, 5000)), "png"), LeftOut("max_aspect=20")),
    "16-bit PNG": (
        encoded(Image.fromarray(SIXTEEN), "png"),
        Used("used, scaled to 8 bits", near(np.full((12, 12, 3), 128), 0)),
    ),
    "floating-point TIFF": (encoded(Image.new("F", (9, 9)), "tiff"), LeftOut("no fixed range")),
    "CMYK JPEG": (
        encoded(photo().convert("CMYK"), "jpeg", quality=95),
        Used("used, converted to RGB", near(photo())),
    ),
    "palette with a transparent colour": (
        encoded(PALETTE, "png", transparency=1),
        Used("used, over white", near(WHITE, 0)),
    ),
    "animated GIF": (
        encoded(FRAMES[0], "gif", save_all=True, append_images=FRAMES[1:]),
        Used("used, its first frame", near([255, 0, 0], 0)),
    ),
    "JPEG turned by EXIF": (
        encoded(photo(), "jpeg", quality=95, exif=ORIENTED),
        Used("used, upright", near(np.rot90(np.asarray(photo()), -1))),
    ),
    "file of a format that is not read (EPS)": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        LeftOut("not an image that can be read"),
    ),
}

for _name, (_image, _outcome) in IMAGES.items():
    case(_name, _outcome)(
        lambda path, image=_image: write_folder(path / "d", [*records(GOOD), ("bad", image, "x")])
    )

# --- captions -------------------------------------------------------------------------------------

CAPTIONS = {
    "empty caption": ("", LeftOut("caption is empty")),
    "caption of blanks": (" \n\t", LeftOut("caption is empty")),
    "caption of characters without width": ("\u200b\ufeff", LeftOut("caption is empty")),
    "caption that is null": (None, LeftOut("no caption")),
    "caption that is a number": (7, LeftOut("caption is an int, not text")),
    "null in a list of captions": (["x", None], LeftOut("caption is a NoneType, not text")),
    "empty list of captions": ([], LeftOut("no caption")),
    "caption with a NUL": ("a\0b", LeftOut("NUL")),
    "caption of a megabyte": ("word " * 200_000, LeftOut("characters, more than 10000")),
    "caption with a lone surrogate": ("caf\udce9", LeftOut("not UTF-8")),
}

for _name, (_caption, _outcome) in CAPTIONS.items():
    case(_name, _outcome)(
        lambda path, caption=_caption: write_folder(
            path / "d", [*records(GOOD), ("bad", BAD, caption)]
        )
    )


@case("caption that is not UTF-8", LeftOut("not UTF-8"))
def latin(path):
    folder = write_sidecars(path / "d", ROWS)
    (folder / "bad.txt").write_bytes(b"caf\xe9")
    return folder


@case("caption after a byte order mark", Used(check=lambda sample: sample.captions == ["a cat"]))
def marked(path):
    folder = write_sidecars(path / "d", ROWS)
    (folder / "bad.txt").write_bytes(b"\xef\xbb\xbfa cat")
    return folder
