"""Serves the page on which raters vote."""

from __future__ import annotations

import contextlib
import secrets
import signal
import socket
from collections.abc import Collection
from typing import Any

import uvicorn

from unclip.common.listening import address_of, is_loopback
from unclip.common.terminal import say
from unclip.study.app import build_app
from unclip.study.desk import Desk
from unclip.study.study import Study
from unclip.study.votes import Votes

CONNECTIONS = 512
FAREWELL = 3  # seconds that requests have to finish in the end


def serve(
    study: Study, votes: Votes, *, host: str, port: int, enough: int | None, names: Collection[str]
) -> None:
    """Until Ctrl-C. Every vote that the page has confirmed is on the disk.

    Args:
        study: What is shown.
        votes: Where votes go.
        host: Where to listen; with any but a loopback address only who has the link gets in.
        port: Likewise.
        enough: Votes after which a pair is not handed out any more.
        names: Further names that raters reach the page by.
    """
    token = None if is_loopback(host) else votes.setting("token", secrets.token_urlsafe(16))
    app = build_app(study, Desk(study, votes, enough), token=token, hosts={host, *names})
    # The server hands on the signal that ended it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        _Server(app, host, port, token).run()


class _Server(uvicorn.Server):
    """Says where it listens."""

    def __init__(self, app: Any, host: str, port: int, token: str | None):
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                ws="none",
                log_level="error",
                server_header=False,
                limit_concurrency=CONNECTIONS,
                timeout_graceful_shutdown=FAREWELL,
            )
        )
        self._token = token

    async def startup(self, sockets: Any = None) -> None:
        """Listen."""
        await super().startup(sockets)
        host = self.config.host
        if host in ("0.0.0.0", "::"):  # every address: no browser can go there
            host = socket.gethostname()
        query = f"/?token={self._token}" if self._token else ""
        say(address_of(host, self.config.port) + query)
