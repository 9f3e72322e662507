"""Whether a run or an artifact was made here: by a mark that only this account can write."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Mapping
from typing import Any

from unclip.common.artifacts import Artifact
from unclip.common.errors import UserError
from unclip.common.fields import leaves
from unclip.data.config import BUILT_IN
from unclip.data.files import cache_folder
from unclip.tracking.files import MARK

_SOURCE = re.compile(r"data\.(source|embeddings|mixture\.[^.]+\.source)")


def sources_of(config: Mapping[str, Any]) -> dict[str, str]:
    """What an experiment reads that is not built in: dotted key -> source."""
    values = dict(leaves(config))
    read = values.get("data.embeddings") or values.get("data.source")
    found = {}
    for key, value in values.items():
        in_use = value == read or (read == "mixture" and key.startswith("data.mixture."))
        if _SOURCE.fullmatch(key) and in_use and value not in (*BUILT_IN, None, ""):
            found[key] = str(value)
    return found


def mark(config: Mapping[str, Any]) -> dict[str, str]:
    """For the provenance of a run or artifact of ``config``; empty where nothing can be kept.

    The mark is of the sources that the config names, keyed (HMAC-SHA256) by a secret in
    `$UNCLIP_CACHE`: who changes them, or writes an artifact elsewhere, cannot write it.
    """
    key = _key(make=True)
    return {} if key is None else {MARK: _mark(key, config)}


def is_own(artifact: Artifact) -> bool:
    """Whether ``artifact`` was trained by this account, on the data that its config names."""
    return is_marked(artifact.provenance, artifact.config)


def is_marked(provenance: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Whether ``provenance`` has this account's mark of the sources that ``config`` names."""
    key, found = _key(make=False), provenance.get(MARK)
    if key is None or not isinstance(found, str):
        return False
    return hmac.compare_digest(found.encode(), _mark(key, config).encode())


def _mark(key: bytes, config: Mapping[str, Any]) -> str:
    text = json.dumps(sources_of(config), sort_keys=True)
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def _key(*, make: bool) -> bytes | None:
    with contextlib.suppress(OSError, UserError):  # an account may have no home
        file = cache_folder("account") / "key"
        if make and not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            scratch = file.with_name(f".{secrets.token_hex(8)}")
            descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as opened:
                opened.write(secrets.token_bytes(32))
            with contextlib.suppress(FileExistsError):  # another run was faster
                os.link(scratch, file)
            scratch.unlink()
        key = file.read_bytes()
        return key if len(key) == 32 else None
    return None
