"""Published cascades, fetched and imported once into the cache."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unclip.common.errors import UserError
from unclip.common.terminal import say
from unclip.config.cascades import NamedCascade
from unclip.data.files import cache_folder


def imported_folder(cascade: NamedCascade) -> Path:
    """Where its stages are, or will be: another folder for other sources."""
    published = cascade.published
    key = hashlib.sha256(
        "\n".join([*published.sources, published.clip, published.merges]).encode()
    ).hexdigest()
    return cache_folder("cascades") / f"{cascade.name}-{key[:12]}"


def fetch(cascade: NamedCascade) -> Path:
    """The folder of its stages; the first call downloads and imports them.

    An interrupted download is resumed by the next call; an interrupted import leaves nothing.

    Raises:
        UserError: the sources cannot be reached, or what they hold is refused.
    """
    folder, published = imported_folder(cascade), cascade.published
    if folder.is_dir():
        return folder
    size = f" {published.download}," if published.download else ""
    licence = f"; licence of the weights: {published.licence}" if published.licence else ""

    def reached() -> None:
        line = f"fetching{size} then importing into {folder}{licence}"
        say(f"unclip: {cascade.name}: {line}", error=True)

    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        import_cascade(cascade, folder, reached=reached)
    except (OSError, UserError):
        if not folder.is_dir():  # else another process was faster
            raise
    return folder


def import_cascade(
    cascade: NamedCascade,
    out: Path,
    *,
    clip: str | None = None,
    merges: Path | None = None,
    half: bool = False,
    force: bool = False,
    reached: Callable[[], None] | None = None,
) -> list[Path]:
    """Its stages into the folder ``out``: `unclip.weights.importing.import_weights`."""
    published = cascade.published
    return _import(
        published.sources,
        out,
        clip=clip or published.clip or None,
        merges=merges or _merges(published.merges),
        half=half,
        force=force,
        reached=reached,
    )


def _merges(spec: str) -> Path | None:
    """GPT-2's merges of a source."""
    if not spec:
        return None
    from unclip.weights.hub import open_source
    from unclip.weights.importing import tell_commits
    from unclip.weights.reading.folders import MERGES

    source = open_source(spec)
    names = [name for name in source.names if name.rpartition("/")[2] in MERGES]
    if not names:
        raise UserError(f"merges={spec}: holds no {' or '.join(MERGES)}")
    found = source.path(names[0])
    tell_commits([source])
    return found


def _import(*sources: Any, **how: Any) -> list[Path]:
    from unclip.weights.importing import import_weights  # slow

    return import_weights(*sources, **how)
