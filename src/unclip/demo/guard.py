"""What stands between visitors and the page: who may ask, and for how much at a time."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
import time
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from unclip.common.terminal import say
from unclip.demo.inputs import MAX_BYTES

BODY = 2**20  # bytes of a request, but for
FILES = MAX_BYTES + BODY  # one that carries images
HELD = 256 * 2**20  # bytes of requests that are read at the same time
SENT = 128 * 2**20  # bytes that a client may send within
WINDOW = 600.0  # seconds
STORED = 2**30  # bytes of images on the disk, the oldest of which make room
SLOW = 60.0  # seconds that a request may take to arrive
OPEN = 64  # requests of a client at the same time
JOBS = 4  # of a client that wait or run

_API = "/gradio_api"
JOIN, CANCEL, LISTEN = f"{_API}/queue/join", f"{_API}/cancel", f"{_API}/queue/data"
POSTS = {
    JOIN: BODY,
    CANCEL: BODY,
    f"{_API}/reset": BODY,
    f"{_API}/upload": FILES,
    f"{_API}/component_server": FILES,
    f"{_API}/run/predict": BODY,  # an example; Gradio refuses what has to wait in the queue there
    f"{_API}/run/load_example": BODY,  # the same, of earlier versions of Gradio
}
GETS = tuple(f"{_API}/{name}" for name in ("queue/data", "heartbeat/", "file=", "upload_progress"))


class Guard:
    """An ASGI application before the page's own, which answers what it refuses in one line.

    Args:
        app: The page's own.
        folder: Where it stores uploads and images.
        host: Where it listens.
        names: By which visitors reach it, besides that, addresses and localhost.
        jobs_of: How many jobs a client has that wait or run.
        cancel: Stops the job of a session.
    """

    def __init__(
        self,
        app: Any,
        folder: Path,
        *,
        host: str,
        names: Collection[str],
        jobs_of: Callable[[str], int],
        cancel: Callable[[str], None],
    ):
        self._app, self._folder, self._jobs_of, self._cancel = app, folder, jobs_of, cancel
        self._names = {name.lower() for name in names}
        self._hosts = self._names | {host.lower(), "localhost", socket.gethostname().lower()}
        self._open: Counter[str] = Counter()
        self._joining: Counter[str] = Counter()
        self._sent: Counter[str] = Counter()
        self._since = time.monotonic()
        self._held = 0
        self._streams: set[asyncio.Task[Any]] = set()
        self._closed = False
        self.listening: Counter[str] = Counter()
        """How many requests wait for what the jobs of a session come to."""

    def close(self) -> None:
        """Dismiss those who listen, which Gradio does not."""
        self._closed = True
        for stream in self._streams:
            stream.cancel()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer, or let the page answer, a request."""
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":
            return None  # the server closes what nobody accepts
        started = False

        async def noted_send(message: Any) -> None:
            nonlocal started
            started = True
            await send(message)

        client = (scope.get("client") or ("",))[0]
        task = asyncio.current_task()
        assert task is not None
        if scope["method"] == "GET":
            self._streams.add(task)
        try:
            with _counted(self._open, client):
                await self._answer(scope, receive, noted_send, client)
        except _Refused as refusal:
            await _reply(send, refusal.status, str(refusal))
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError):
                if not self._closed:
                    raise
            else:
                what = f"{type(error).__name__}: {str(error)[:200]}"
                say(f"unclip demo: {scope['path'][:100]}: {what}", error=True)
            if started:
                with suppress(Exception):
                    await send({"type": "http.response.body", "body": b""})
            else:
                await _reply(send, 400, "This request cannot be answered.")
        finally:
            self._streams.discard(task)

    async def _answer(self, scope: Any, receive: Any, send: Any, client: str) -> None:
        path, method = scope["path"], scope["method"]
        self._check_host(scope)
        if self._open[client] > OPEN:
            raise _Refused(429, "Too many requests at the same time.")
        if method in ("GET", "HEAD"):
            if path.startswith(_API) and not path.startswith(GETS):
                raise _Refused(404, "Not found.")
            query = parse_qs(scope["query_string"].decode("latin-1"))
            session = query.get("session_hash", [""])[0] if path == LISTEN else ""
            with _counted(self.listening, session):
                return await self._app(scope, receive, send)
        if method != "POST" or path not in POSTS:
            raise _Refused(404, "Not found.")
        held = Counter[str]()
        try:
            async with asyncio.timeout(SLOW):
                body = await self._read(receive, POSTS[path], client, held)
        except TimeoutError:
            raise _Refused(408, f"Send within {SLOW:g} seconds.") from None
        finally:
            self._held -= held[client]
        if path == CANCEL:  # Gradio only forgets the job, which goes on
            self._cancel(_session(body))
        if POSTS[path] == FILES:
            _make_room(self._folder, STORED)
        joins = path == JOIN
        if joins and self._jobs_of(client) + self._joining[client] >= JOBS:
            raise _Refused(429, f"{JOBS} of your jobs wait; let one finish first.")
        with _counted(self._joining, client if joins else ""):
            await self._app(scope, _replay(body, receive), send)

    async def _read(self, receive: Any, most: int, client: str, held: Counter[str]) -> bytes:
        """The body of a request, of ``most`` bytes; ``held`` counts them while they arrive."""
        chunks = []
        if time.monotonic() - self._since > WINDOW:
            self._sent.clear()
            self._since = time.monotonic()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Refused(400, "The request is incomplete.")
            chunk = message.get("body", b"")
            chunks.append(chunk)
            for counter in (held, self._sent):
                counter[client] += len(chunk)
            self._held += len(chunk)
            if held[client] > most:
                raise _Refused(413, f"At most {most:,} bytes can be sent.")
            if self._sent[client] > SENT:
                raise _Refused(429, f"At most {SENT:,} bytes can be sent in {WINDOW:g} seconds.")
            if self._held > HELD:
                raise _Refused(503, "Too many visitors are sending images; try again.")
            if not message.get("more_body"):
                return b"".join(chunks)

    def _check_host(self, scope: Any) -> None:
        """Refuse a host that is not ours, which may be another's name that leads to us."""
        head = [(k.lower(), v.decode("latin-1").lower()) for k, v in scope["headers"]]
        hosts = [value for key, value in head if key == b"host"]
        if len(hosts) != 1 or not self._is_ours(_name(hosts[0])):
            raise _Refused(400, "Unknown host: start the demo with --allow-host NAME.")
        for origin in (value for key, value in head if key == b"origin"):
            place = origin.partition("://")[2]
            if place != hosts[0] and _name(place) not in self._names:
                raise _Refused(403, "Another page may not use this one.")

    def _is_ours(self, name: str) -> bool:
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self._hosts
        return True


class _Refused(Exception):
    """A request that is not answered."""

    def __init__(self, status: int, text: str):
        super().__init__(text)
        self.status = status


@contextmanager
def _counted(counter: Counter[str], key: str) -> Any:
    """Count ``key`` while the block runs; forget those that are at 0, and "" always."""
    counter[key] += bool(key)
    try:
        yield
    finally:
        counter[key] -= bool(key)
        if not counter[key]:
            del counter[key]


def _name(place: str) -> str:
    """The host in ``host:port``, which may be an address of IPv6 in brackets."""
    try:
        return urlsplit(f"//{place}").hostname or ""
    except ValueError:
        return ""


def _session(body: bytes) -> str:
    try:
        return str(json.loads(body)["session_hash"])
    except (ValueError, TypeError, KeyError, RecursionError):
        raise _Refused(400, "This request cannot be read.") from None


def _make_room(folder: Path, most: int) -> None:
    """Remove the oldest of the files in ``folder`` until they have ``most`` bytes."""
    found = []
    for file in folder.rglob("*"):
        try:
            if file.is_file():
                found.append((file.stat().st_mtime, file.stat().st_size, file))
        except OSError:  # removed by another
            continue
    size = sum(each[1] for each in found)
    for _, bytes_, file in sorted(found):
        if size <= most:
            return
        file.unlink(missing_ok=True)
        size -= bytes_


def _replay(body: bytes, receive: Any) -> Any:
    """What a request receives: its body, then what comes after it."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Any:
        return waiting.pop() if waiting else await receive()

    return again


async def _reply(send: Any, status: int, text: str) -> None:
    head = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": text.encode()})
