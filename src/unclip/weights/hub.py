"""Weights elsewhere: ``hf://ORG/NAME[@REVISION]``, of which only what is needed, and one URL."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from unclip.common.errors import UserError
from unclip.common.home import expanded
from unclip.data.files import last_part
from unclip.embeddings.hub import downloads
from unclip.weights.download import download, require_reachable
from unclip.weights.reading.folders import Source, local
from unclip.weights.reading.tensors import MOST_BYTES

_WORD = r"\w(?:[\w.-]*\w)?"
_URL = re.compile(rf"hf://({_WORD}/{_WORD})(?:@({_WORD}(?:/{_WORD})*))?")


def open_source(spec: str) -> Source:
    """Where ``spec`` points: a path, ``hf://ORG/NAME[@REVISION]``, or the URL of a file.

    Files of the hub are fetched when they are asked for, into its own cache, where an interrupted
    download is resumed; without a network what the cache has is used.

    Raises:
        UserError: there is no such path or repository, or it cannot be reached.
    """
    if not spec.strip():
        raise UserError("SOURCE: must not be empty; give a folder, a file or an address")
    if spec.startswith("https://"):
        _require_file_address(spec)
        require_reachable(spec)
        return Source(
            spec.rpartition("/")[0], [last_part(spec)], lambda _: download(spec), {"source": spec}
        )
    if "://" in spec and not spec.startswith("hf://"):
        raise UserError(
            f"{spec}: must be https://HOST/FILE, hf://ORG/NAME[@REVISION] or a local path"
        )
    if not spec.startswith("hf://"):
        return local(expanded(spec))
    found = _URL.fullmatch(spec)
    if found is None or ".." in spec or "--" in found[1]:
        raise UserError(f"{spec}: must be of the form hf://ORG/NAME or hf://ORG/NAME@REVISION")
    repository, revision = found[1], found[2]
    try:
        with downloads():  # says at once that there is no network
            info = _hub().HfApi().model_info(repository, revision=revision, files_metadata=True)
    except Exception as error:  # the client raises a dozen kinds
        return _cached(spec, repository, revision, error)
    for file in info.siblings:
        if (file.size or 0) > MOST_BYTES:
            raise UserError(
                f"{spec}/{file.rfilename}: has {file.size:,} bytes; the most is {MOST_BYTES:,}"
            )

    def fetch(name: str) -> Path:
        try:
            return Path(_hub().hf_hub_download(repository, name, revision=info.sha))
        except Exception as error:
            raise UserError(
                f"{spec}/{name}: cannot be fetched ({_line(error)}); run the same command again"
            ) from None

    names = [f.rfilename for f in info.siblings if not f.rfilename.startswith(".")]
    origin = {"source": f"hf://{repository}", "revision": info.sha, "licence": _licence(info)}
    return Source(spec, names, fetch, origin)


def _require_file_address(url: str) -> None:
    """Refuse an address without a host or a file."""
    try:
        parts = urlsplit(url)
        named = bool(parts.hostname and parts.path.strip("/")) and parts.port != 0
    except ValueError:  # a bracket, a port of letters
        named = False
    if not named:
        raise UserError(f"{url}: must be of the form https://HOST/FILE")


def _cached(spec: str, repository: str, revision: str | None, error: Exception) -> Source:
    """What an earlier call has left in the hub's cache."""
    try:
        folder = _snapshot(repository, revision)
    except Exception:
        raise UserError(
            f"{spec}: cannot be reached and is not in the cache ({_why(error)}); go online once, "
            "or give a folder with its files"
        ) from None
    source = local(Path(folder))
    origin = {**source.origin, "source": f"hf://{repository}"}
    return Source(spec, source.names, source.path, origin)


def _snapshot(repository: str, revision: str | None) -> str | Path:
    """The cached folder of a revision; files were fetched by commit, so main is the newest one."""
    try:
        return _hub().snapshot_download(repository, revision=revision, local_files_only=True)
    except Exception:
        if revision not in (None, "main"):
            raise
    (repo,) = (r for r in _hub().scan_cache_dir().repos if r.repo_id == repository)
    return max(repo.revisions, key=lambda found: found.last_modified).snapshot_path


def _licence(info: Any) -> str | None:
    card = getattr(info, "card_data", None)
    return (card.get("license") if card else None) or next(
        (t.removeprefix("license:") for t in info.tags or [] if t.startswith("license:")), None
    )


def _hub() -> Any:
    import huggingface_hub

    return huggingface_hub


def _why(error: Exception) -> str:
    """The client's own line speaks of a setting that `downloads` has made."""
    from huggingface_hub import constants, errors

    if not isinstance(error, errors.OfflineModeIsEnabled):
        return _line(error)
    return "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub does not answer"


def _line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
