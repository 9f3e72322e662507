"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SCRATCH_SUFFIX = ".part"  # how the name of a file that is being written ends


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A scratch file beside ``path``, which takes its place unless the block fails.

    The folder is made. Others may write the same file at the same time: the last one counts.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}{SCRATCH_SUFFIX}")
    try:
        yield scratch
        os.replace(scratch, path)
    except OSError as error:
        if error.errno is None:  # numpy's own: "8 requested and 4 written"
            raise OSError(errno.EIO, str(error), str(path)) from None
        if error.filename in (None, str(scratch), scratch):
            error.filename = str(path)  # a full disk names none, and the scratch file means nothing
        raise
    finally:
        scratch.unlink(missing_ok=True)


def remove_parts(folder: Path) -> None:
    """Remove what killed processes have left of `atomic_write` in ``folder``."""
    for part in folder.glob(f".*{SCRATCH_SUFFIX}"):
        part.unlink()
