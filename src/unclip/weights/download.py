"""A file of weights on the web, kept in the cache."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from unclip.common.errors import UserError
from unclip.data.files import cache_folder, last_part, stat_file
from unclip.data.remote import Unreadable
from unclip.weights.reading.tensors import MOST_BYTES

CHUNK = 80 << 20  # bytes asked for at once; more than what `File.read` caches


def download(url: str) -> Path:
    """The file at ``url``; one that was interrupted is continued, unless it has changed since.

    Raises:
        UserError: it cannot be read, or has more than `MOST_BYTES`.
    """
    name = f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{last_part(url)}"
    target = cache_folder("weights") / name
    if target.is_file():
        return target
    try:
        file = stat_file(url)
        if file.size > MOST_BYTES:
            raise UserError(f"{url}: has {file.size:,} bytes; the most is {MOST_BYTES:,}")
        stamp = hashlib.sha256(f"{file.size} {file.stamp}".encode()).hexdigest()[:8]
        part = target.with_name(f"{name}.{stamp}.part")
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as written:
            while (done := written.tell()) < file.size:
                written.write(file.read(done, min(CHUNK, file.size - done)))
    except Unreadable as error:
        raise UserError(f"{url}: {error.reason}; run the same command again") from None
    os.replace(part, target)
    return target
