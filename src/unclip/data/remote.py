"""File systems of fsspec by URL, safe after a fork, and tried again when the network fails."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import time
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

import fsspec
from fsspec import AbstractFileSystem
from fsspec.implementations.cached import CachingFileSystem

from unclip.common.errors import UserError

_PAUSES = (0.5, 1.0, 2.0, 4.0)  # seconds before each further attempt
_PERMANENT = (PermissionError, IsADirectoryError, ValueError, NotImplementedError)

# fsspec gives a forked process new file systems and drops the parent's. Dropped for good, they
# would close connections that the parent still uses.
_kept: dict[int, AbstractFileSystem] = {}

PUBLIC_ONLY = "UNCLIP_PUBLIC_ONLY"
"""An environment variable: set while sources are read that a stranger named."""

T = TypeVar("T")


class Unreadable(UserError):
    """A file that cannot be read, and why.

    Args:
        path: Which one.
        reason: As the end of a sentence that begins with the path.
    """

    def __init__(self, path: str, reason: str):
        super().__init__(path, reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"data.source: {self.args[0]} {self.reason}"


def with_retries(url: str, action: Callable[[AbstractFileSystem, str], T]) -> T:
    """``action`` of the URL's file system and name, tried again unless the failure is permanent.

    Raises:
        Unreadable: It failed for good.
        UserError: Nothing is installed that reads such a URL.
    """
    for pause in (*_PAUSES, None):
        try:
            return action(*_system(url))
        except UserError:
            raise
        except Exception as error:  # every protocol has its own
            reason, permanent = _judge(error)
            if permanent or pause is None:
                raise Unreadable(url, reason) from None
        time.sleep(pause)
    raise AssertionError("the last attempt returns or raises")


def file_info(url: str) -> dict[str, Any]:
    """What fsspec knows of a file: `size` (bytes, or None) and more, as its protocol has it."""

    def info(system: AbstractFileSystem, name: str) -> dict[str, Any]:
        while isinstance(system, CachingFileSystem):  # which knows nothing of files not yet read
            system = system.fs
        return system.info(name)

    return with_retries(url, info)


def _judge(error: BaseException) -> tuple[str, bool]:
    """Why a remote read failed, and whether trying again is pointless."""
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and not isinstance(cause, (KeyError, type(None))):
        error = cause  # over HTTP any failure is one of these
    status = getattr(error, "status", None)  # of an HTTP response
    if isinstance(error, FileNotFoundError) or status == 404:
        return "does not exist", True
    refused = isinstance(status, int) and 400 <= status < 500 and status not in (408, 429)
    permanent = refused or isinstance(error, _PERMANENT)
    text = " ".join(str(error).split()) or type(error).__name__
    return f"cannot be read ({text})", permanent


def check_public(url: str) -> None:
    """Refuse a URL whose host has an address that is not public: of this machine, or its network.

    Raises:
        UserError: names the URL and the address.
    """
    parts = urlsplit(url)
    if parts.scheme.lower() not in ("http", "https"):
        return
    try:
        port = parts.port or (443 if parts.scheme.lower() == "https" else 80)
        found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except (OSError, ValueError) as error:
        raise UserError(f"data.source: {url}: its host cannot be found ({error})") from None
    for *_, address in found:
        if not is_public(str(address[0])):
            raise UserError(
                f"data.source: {url}: is at the private address {address[0]}; "
                "sources that somebody else named must be public"
            )


def is_public(address: str) -> bool:
    """Whether an IP address is one of the internet's."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        found = found.ipv4_mapped or found.sixtofour or found
        if found in ipaddress.ip_network("64:ff9b::/96"):  # stands for an IPv4 address
            found = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
    return found.is_global and not found.is_multicast


async def _public_client(**settings: Any) -> Any:
    """A client of HTTP that reaches public addresses alone, after redirects too."""
    import aiohttp

    def connect(info: Any) -> socket.socket:
        family, kind, protocol, _, address = info
        if not is_public(str(address[0])):
            raise OSError(f"{address[0]} is a private address")
        return socket.socket(family, kind, protocol)

    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(socket_factory=connect), **settings)


def _system(url: str) -> tuple[AbstractFileSystem, str]:
    """The file system of ``url`` in this process, and the name of the file there.

    fsspec's `reference` is never read: its files name others, local ones too.
    """
    if "reference" in re.split("::|://", url.lower()):
        raise UserError(
            f"data.source: {url}: reference files are not read; name the files themselves"
        )
    options: dict[str, Any] = {}
    scheme = url.lower().partition("://")[0].split("::")
    if os.environ.get(PUBLIC_ONLY) and scheme[-1] in ("http", "https"):
        client = {"get_client": _public_client}
        options = {scheme[-1]: client} if len(scheme) > 1 else client
    try:
        system, name = fsspec.url_to_fs(url, **options)
    except ImportError as error:
        raise UserError(
            f"data.source: {url} needs `pip install 'unclip[remote]'` or another package ({error})"
        ) from None
    except ValueError as error:
        raise UserError(f"data.source: {url} is not a URL that unclip can read ({error})") from None
    _kept[id(system)] = system
    return system, name
