"""Addresses at which a page is served. Imports no torch."""

from __future__ import annotations

import ipaddress
import socket

from unclip.common.errors import UserError


def check_address(host: str, port: int) -> None:
    """Raise `UserError` if nobody can listen there: known before any slow work."""
    try:
        if not 0 < port < 2**16:
            raise OSError("the port must be from 1 to 65535")
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.create_server(address[:2], family=family):
            pass
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"--host {host} --port {port}: {why}") from None


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def address_of(host: str, port: int) -> str:
    """The URL of a page."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
