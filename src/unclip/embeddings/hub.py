"""Downloads by open_clip: quick and quiet where there is no network."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from huggingface_hub import constants

_PATIENCE = 5.0  # seconds for the hub to answer
_PROXIES = ("https_proxy", "http_proxy", "all_proxy")


@contextmanager
def downloads() -> Iterator[None]:
    """Within, what the hub's client logs is left out, since its errors say it too.

    If the hub does not answer, only its cache is read: the client would try for a minute.
    """
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _answers()
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        constants.HF_HUB_OFFLINE = before


def _answers() -> bool:
    """Whether the hub can be reached; a proxy is believed to reach it."""
    if any(os.environ.get(name) or os.environ.get(name.upper()) for name in _PROXIES):
        return True
    address = urlsplit(constants.ENDPOINT)
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname or "", port), timeout=_PATIENCE).close()
    except OSError:
        return False
    return True
