"""What a file's name says: whether it is an image or a caption, and the key of its sample."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from unclip.data.keys import printable

IMAGE_ENDINGS = (
    "jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "jfif", "jpe", "jp2", "ppm",
)  # fmt: skip
_RANK = {ending: rank for rank, ending in enumerate(IMAGE_ENDINGS)}
_ARCHIVES = ("tar", "zip", "gz", "tgz", "bz2", "xz", "zst", "7z", "rar", "parquet", "arrow")
_UNREAD_IMAGES = ("heic", "heif", "svg", "psd", "eps", "pdf", "dng", "cr2", "nef", "arw", "exr")


def ending_of(name: str) -> str:
    """The ending in lower case, without its dot; empty where there is none.

    >>> ending_of("birds/0001.v2.JPG"), ending_of("birds.d/.png")
    ('jpg', '')
    """
    stem, _, ending = name.rpartition("/")[2].rpartition(".")
    return ending.lower() if stem else ""


def stem_of(name: str) -> str:
    """``name`` without its ending and the dot."""
    ending = ending_of(name)
    return name[: -len(ending) - 1] if ending else name


def key_of(name: str) -> str:
    """The key of the sample whose image file is called ``name``: its path without the ending.

    It depends on nothing but the name, so no other file can change it.

    >>> key_of("./birds/22.04.png")
    'birds/22.04'
    """
    if "/" in name:  # slow, and most names have none
        name = str(PurePosixPath(name))
    return printable(stem_of(name))


def unique_keys(names: Sequence[str]) -> list[str]:
    """A key for each of ``names``, all different.

    It is `key_of`. Where several names have the same, the ending that comes first in
    `IMAGE_ENDINGS` has it, and the others keep their endings: `1.png` beside `1.jpg`.
    """
    keys = [key_of(name) for name in names]
    if len(set(keys)) == len(keys):
        return keys
    used: set[str] = set()
    for n in sorted(range(len(names)), key=lambda n: (_RANK.get(ending_of(names[n]), 99), n)):
        if keys[n] in used:
            keys[n] = printable(names[n])
        while keys[n] in used:
            keys[n] += "+"
        used.add(keys[n])
    return keys


def is_image(name: str) -> bool:
    """Whether the ending is that of an image file that can be read."""
    return ending_of(name) in _RANK


def is_hidden(name: str) -> bool:
    """Whether the file, or a folder that it lies in, is what systems keep for themselves.

    >>> [is_hidden(name) for name in ("./a.png", "a/._b.png", "__MACOSX/a.png", ".git/a.png")]
    [False, True, True, True]
    """
    return any(
        part == "__MACOSX" or (part.startswith(".") and part.strip(".") != "")
        for part in name.split("/")
    )


def why_unread(name: str) -> str:
    """The reason for which a file that is neither an image nor a caption is left out."""
    ending = ending_of(name)
    if is_hidden(name):
        return "hidden or of the operating system"
    if ending in _ARCHIVES:
        return "an archive or table within the source; give it as a data.source of its own"
    if ending in _UNREAD_IMAGES:
        return f"an image of a kind that is not read (.{ending}); convert it to JPEG or PNG"
    if ending.isalpha() and ending.isascii() and len(ending) <= 5:
        return f"neither an image nor a caption (.{ending})"
    return "neither an image nor a caption"
