"""What lies in a tar: every member, and which of them make up samples."""

from __future__ import annotations

import tarfile
import unicodedata
import zlib
from typing import NamedTuple

import numpy as np

from unclip.common.errors import UserError
from unclip.data.files import File
from unclip.data.keys import Strings, key_hashes, printable
from unclip.data.readers.inventory import Inventory
from unclip.data.readers.names import (
    IMAGE_ENDINGS,
    ending_of,
    is_hidden,
    key_of,
    why_unread,
)

HEADER = 512  # bytes, before the data of every member
_IMAGE, _TEXT, _JSON = range(3)
_COLUMN = {**dict.fromkeys(IMAGE_ENDINGS, _IMAGE), "txt": _TEXT, "json": _JSON}


class TarIndex(NamedTuple):
    """The samples of one tar."""

    keys: Strings
    hashes: np.ndarray  # uint64 [N]: `key_hashes` of the keys
    spans: np.ndarray  # int64 [N, 3, 2]: offset and size of image, txt and json; offset -1: none
    headers: np.ndarray  # uint32 [N, 3]: CRC-32 of the header before each
    members: int  # files that lie wholly inside the tar
    damaged: bool  # the tar does not end as one should
    files: Inventory  # every member that is not a folder


class _Member(NamedTuple):
    path: str
    offset: int  # of its data
    size: int
    header: int  # CRC-32


def scan_tar(tar: File) -> TarIndex:
    """The index made from the headers of all members.

    Raises:
        UserError: It is not an uncompressed tar, holds no image, or cannot be read.
    """
    files = Inventory()
    members, damaged = _members(tar, files)
    rows = _rows(members, files)
    shape = (len(rows), 3)
    chosen = np.array(list(rows.values()), dtype=np.int64).reshape(shape)
    table = np.array([(m.offset, m.size, m.header) for m in members], dtype=np.int64)
    table = np.concatenate([table.reshape(-1, 3), [[-1, -1, 0]]])[chosen]  # -1: the last
    if not (chosen[:, _IMAGE] >= 0).any():
        endings = ", ".join(f".{ending}" for ending in IMAGE_ENDINGS)
        why = f": {files.reasons()}" if files.left_out else ""
        raise UserError(f"data.source: {tar.path} holds no image ({endings}){why}")
    files.read += int((chosen >= 0).sum())
    spans, headers = np.ascontiguousarray(table[..., :2]), table[..., 2].astype(np.uint32)
    return TarIndex(
        Strings.of(rows), key_hashes(rows), spans, headers, len(members), damaged, files
    )


def _rows(members: list[_Member], files: Inventory) -> dict[str, list[int]]:
    """By key, the numbers of a sample's members, -1 where it has none; counts the others."""
    rows: dict[str, list[int]] = {}
    for number, member in enumerate(members):
        column = _COLUMN.get(ending_of(member.path))
        if column is None or is_hidden(member.path):
            files.leave_out(member.path, why_unread(member.path))
            continue
        row = rows.setdefault(key_of(member.path), [-1, -1, -1])
        if row[column] >= 0:
            earlier = members[row[column]].path
            same = earlier == member.path
            reason = "replaced by a later member of its name" if same else "a second one of its key"
            files.leave_out(earlier, reason)
        row[column] = number
    _join_spellings(rows)
    for key in [key for key in rows if "." in key.rpartition("/")[2]]:
        _judge_dotted(key, rows, members, files)
    for row in rows.values():
        if row[_TEXT] >= 0 and row[_JSON] >= 0:
            files.leave_out(members[row[_JSON]].path, "a .json beside the .txt that is read")
            row[_JSON] = -1
    return rows


def _join_spellings(rows: dict[str, list[int]]) -> None:
    """Give captions to images whose name differs in Unicode's normal form only (macOS)."""
    silent = {
        unicodedata.normalize("NFC", key): row
        for key, row in rows.items()
        if row[_IMAGE] >= 0 and row[_TEXT] < 0 and row[_JSON] < 0 and not key.isascii()
    }
    for key in [key for key, row in rows.items() if row[_IMAGE] < 0 and not key.isascii()]:
        image = silent.pop(unicodedata.normalize("NFC", key), None)
        if image is not None:
            image[_TEXT:] = rows.pop(key)[_TEXT:]


def _judge_dotted(
    key: str, rows: dict[str, list[int]], members: list[_Member], files: Inventory
) -> None:
    """Leave out what webdataset keeps beside a sample: `0001.seg.png`, `0001.class.txt`.

    With an image and a caption of its own it is a sample, as `22.04.jpg` with `22.04.txt`.
    """
    row = rows[key]
    folder, slash, last = key.rpartition("/")
    first = rows.get(folder + slash + last.split(".", 1)[0])
    beside = first is not None and first[_IMAGE] >= 0
    if row[_IMAGE] < 0:
        reason = "a caption without an image"
    elif beside and row[_TEXT] < 0 and row[_JSON] < 0:
        reason = "a further image of a sample"
    else:
        return
    for number in rows.pop(key):
        if number >= 0:
            files.leave_out(members[number].path, reason)


class _Members(NamedTuple):
    found: list[_Member]  # files that lie wholly inside
    damaged: bool  # the archive does not end as one should


def _members(tar: File, files: Inventory) -> _Members:
    """The files in a tar; counts the others. `tarfile` alone takes some cut-off tars for whole."""
    found: list[_Member] = []
    by_name: dict[str, _Member] = {}
    with tar.open() as file:
        try:
            archive = tarfile.TarFile(fileobj=file)
        except UserError:
            raise
        except Exception as error:  # a damaged header can raise nearly anything
            problem = f"is not an uncompressed tar ({printable(str(error))})"
            raise UserError(f"data.source: {tar.path} {problem}") from None
        try:
            for member in archive:
                if archive.offset <= member.offset:  # of a negative size: it would never end
                    return _Members(found, damaged=True)
                archive.members = []  # type: ignore[attr-defined]  # a kilobyte each
                if member.isdir():
                    continue
                if member.islnk() and member.linkname in by_name:
                    found.append(by_name[member.linkname]._replace(path=member.name))
                elif not member.isfile() or member.issparse():
                    files.leave_out(member.name, "a link, a device or a sparse file in a tar")
                elif member.offset_data + member.size > tar.size:
                    files.leave_out(member.name, "cut off where the tar ends")
                else:
                    file.seek(member.offset_data - HEADER)
                    header = zlib.crc32(file.read(HEADER))
                    found.append(_Member(member.name, member.offset_data, member.size, header))
                    by_name[member.name] = found[-1]
        except UserError:
            raise
        except Exception:
            return _Members(found, damaged=True)
        file.seek(archive.offset)
        # POSIX: zero blocks end the archive.
        return _Members(found, damaged=file.read(HEADER) != bytes(HEADER))
