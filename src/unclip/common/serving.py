"""A page as a server of its own process. Needs the extra demo."""

from __future__ import annotations

import socket
from typing import Any

import uvicorn

from unclip.common.listening import address_of
from unclip.common.terminal import say

CONNECTIONS = 512
FAREWELL = 3  # seconds that visitors have to finish in the end


class PageServer(uvicorn.Server):
    """Says where it listens, and nothing else but errors."""

    def __init__(self, app: Any, host: str, port: int, query: str = ""):
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
        self._query = query

    async def startup(self, sockets: Any = None) -> None:
        """Listen."""
        await super().startup(sockets)
        host = self.config.host
        if host in ("0.0.0.0", "::"):  # every address: no browser can go there
            host = socket.gethostname()
        say(address_of(host, self.config.port) + self._query)
