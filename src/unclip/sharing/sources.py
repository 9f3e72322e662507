"""Which data a stranger's experiment may name, and which of it the user has to allow."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path

from braceexpand import braceexpand

from unclip.common import yaml_text
from unclip.common.artifacts import Artifact
from unclip.common.errors import UserError
from unclip.config.load import OVERRIDE, ResolvedExperiment
from unclip.data.config import BUILT_IN
from unclip.data.remote import PUBLIC_ONLY, check_public
from unclip.runs.own import is_marked, is_own, sources_of
from unclip.tracking.files import EXPERIMENT, PROVENANCE, read_json

SCHEMES = ("https", "http", "s3", "gs")
MOST = 100_000  # files that braces may name
_CACHES = re.compile(r"((simple|file|block)cache::)+(?=\w+://)")
_SCHEME = re.compile(r"([a-z][\w+.-]*)://", re.IGNORECASE)


def check_source(source: str) -> None:
    """Refuse what is neither built in, nor a URL of `SCHEMES`, nor below the working folder.

    A URL may begin with one of fsspec's caches: ``simplecache::https://...``.

    Raises:
        ValueError: says why, as the end of a sentence about the source.
    """
    if source in BUILT_IN:
        return
    for place in _places(source):
        scheme = _SCHEME.match(place)
        if "::" in place or (scheme and scheme[1].lower() not in SCHEMES):
            raise ValueError(f"must be a path, or a URL that begins with {', '.join(SCHEMES)}")
        parts = re.split(r"[/\\]", place)
        if "hf:" in place or not place:
            raise ValueError("must be one path or URL")
        if not scheme and (parts[0] == "" or parts[0][0] == "~" or re.match(r"\w:", parts[0])):
            raise ValueError("must be a path below the working folder")
        if ".." in parts or "\0" in place:
            raise ValueError("must not lead out of a folder")


def named_sources(resolved: ResolvedExperiment) -> dict[str, str]:
    """The sources that an experiment reads, by key, but for those that the user has typed."""
    found = sources_of(resolved.as_dict())
    return {key: value for key, value in found.items() if resolved.origins.get(key) != OVERRIDE}


def check_sources(resolved: ResolvedExperiment, *, allow: bool) -> bool:
    """Hold what a stranger's experiment reads to `check_source`, and ask the user for it.

    Args:
        resolved: With the user's overrides.
        allow: Whether the user has allowed what it names.

    Returns:
        Whether anything is read that the user has not typed.

    Raises:
        UserError: a source is refused, not allowed, or at a private address.
    """
    found = named_sources(resolved)
    for key, source in found.items():
        try:
            check_source(source)
        except ValueError as error:
            raise UserError(f"{key}={source[:200]!r}: {error}") from None
        if not allow:
            raise UserError(
                f"{key}={source[:200]!r}: would be read on this machine; add --allow-source, or "
                f"name your own copy by {key}=..."
            )
        for place in _places(source):
            check_public(place)
    return bool(found)


def check_artifact(artifact: Artifact, *, allow: bool) -> None:
    """Ask the user for the data that a command reads because an ``artifact`` names it.

    Not of one that was trained here (`unclip.runs.own`). What is allowed may be anywhere on this
    machine or on a public network: the user was shown the path.

    Raises:
        UserError: a source is not allowed, or at a private address.
    """
    found = {} if is_own(artifact) else sources_of(artifact.config)
    why = (
        "the artifact was not trained by you on this machine; name your own data by --data, or add "
        "--allow-source"
    )
    _ask(found, artifact.path / "config.yaml", why, allow=allow)


def check_resumed(typed: ResolvedExperiment, folder: Path, *, allow: bool) -> None:
    """Ask the user for the data that a run is resumed on because its own folder names it.

    Not of a run that was begun here, nor for what ``typed``, which the user has named, reads too,
    nor for local data below the working folder.

    Raises:
        UserError: a source is not allowed, or at a private address.
    """
    config = yaml_text.read_file(folder / EXPERIMENT)
    if is_marked(read_json(folder / PROVENANCE), config):
        return
    named, origins = sources_of(typed.as_dict()), typed.origins
    found = {}
    for key, value in sources_of(config).items():
        beside = Path(origins.get(key, "")).resolve().parent == folder.resolve()
        known = origins.get(key) == OVERRIDE or (not beside and named.get(key) == value)
        if not known and not _is_below(value):
            found[key] = value
    why = (
        "the run was not begun by you on this machine; add --allow-source, or name the data that "
        "you know by KEY=VALUE"
    )
    _ask(found, folder / EXPERIMENT, why, allow=allow)


def _is_below(source: str) -> bool:
    """Whether it is a path below the working folder."""
    try:
        check_source(source)
    except ValueError:
        return False
    return not any(_SCHEME.match(place) for place in _places(source))


def _ask(found: dict[str, str], file: Path, why: str, *, allow: bool) -> None:
    """Refuse the sources in ``file`` unless they are allowed and public."""
    for key, source in found.items():
        where = f"{file}: {key}={source[:200]!r}"
        if not allow:
            raise UserError(f"{where}: would be read, and {why}")
        try:
            for place in _places(source):
                check_public(place)
        except ValueError as error:
            raise UserError(f"{where}: {error}") from None
    if found:
        os.environ[PUBLIC_ONLY] = "1"


def _places(source: str) -> Iterator[str]:
    """The paths and URLs of ``source``, braces expanded: COCO's FILE?images=FOLDER is two."""
    file, _, images = source.partition("?images=")
    for text in (file, *([images] if images else [])):
        try:
            found = list(itertools.islice(braceexpand(text, escape=False), MOST + 1))
        except ValueError:
            raise ValueError("has a brace that does not close") from None
        if len(found) > MOST:
            raise ValueError(f"names more than {MOST:,} files")
        yield from (_CACHES.sub("", place.removeprefix("hf:"), count=1) for place in found)
