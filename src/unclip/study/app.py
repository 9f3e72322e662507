"""The page on which raters vote, as an ASGI application."""

from __future__ import annotations

import asyncio
import hmac
import socket
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from unclip.common import json_text
from unclip.common.terminal import say
from unclip.study.desk import Desk, Refused
from unclip.study.study import Study
from unclip.study.votes import Busy

PAGE = Path(__file__).parent / "page"
BODY = 4096  # bytes of a request
SLOW = 20.0  # seconds that it may take to arrive
YEAR = 365 * 24 * 3600
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; script-src 'self'; "
    "style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def build_app(study: Study, desk: Desk, *, token: str | None, hosts: Collection[str]) -> Any:
    """The ASGI application; with a ``token``, for those alone who came by its link."""
    own, shown = _Cookies(study), _images(study)

    async def page(request: Request) -> Response:
        given = request.query_params.get("token")
        if given is not None and token is not None and _same(given, token):
            response: Response = RedirectResponse("/", 303)
            own.set(response, own.token, token)
            return response
        return FileResponse(PAGE / "page.html", headers={"Cache-Control": "no-cache"})

    async def image(request: Request) -> Response:
        if (file := shown.get(request.path_params["name"])) is None:
            raise Refused(404, "There is no such image.")
        return FileResponse(file, headers={"Cache-Control": "private, max-age=86400"})

    async def state(request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(desk.state, own.code_of(request)))

    async def rater(request: Request) -> Response:
        body = await _body(request)
        code, found = await run_in_threadpool(desk.enter, body.get("name"), body.get("code"))
        response = JSONResponse(found)
        own.set(response, own.rater, code)
        return response

    async def leave(request: Request) -> Response:
        await _body(request)
        response = JSONResponse(await run_in_threadpool(desk.state, None))
        response.delete_cookie(own.rater, httponly=True, samesite="lax")
        return response

    async def vote(request: Request) -> Response:
        body = await _body(request)
        found = await run_in_threadpool(desk.vote, own.code_of(request), body)
        return JSONResponse(found)

    app = Starlette(
        routes=[
            Route("/", page),
            Route("/image/{name}", image),
            Route("/api/state", state),
            *(
                Route(f"/api/{each.__name__}", each, methods=["POST"])
                for each in (rater, leave, vote)
            ),
            *(Route(f"/{name}", _static(name)) for name in ("page.css", "page.js", "icon.svg")),
        ],
        exception_handlers={Refused: _refuse, Busy: _busy, Exception: _broken},
    )
    return _Guard(app, token, own.token, {host.lower() for host in hosts})


def _images(study: Study) -> dict[str, Path]:
    """By the last part of their address: no path is ever made of what a visitor sends."""
    names = {name for pair in study.pairs.values() for name in (pair.a, pair.b)}
    return {f"{name}.png": study.image(name) for name in names}


def _static(name: str) -> Callable[[Request], Any]:
    async def answer(_: Request) -> Response:
        return FileResponse(PAGE / name, headers={"Cache-Control": "no-cache"})

    return answer


class _Cookies:
    """Their names: cookies are shared by all ports of a machine, so each study has its own."""

    def __init__(self, study: Study):
        self.rater, self.token = f"unclip-rater-{study.id}", f"unclip-token-{study.id}"

    def code_of(self, request: Request) -> str | None:
        return request.cookies.get(self.rater)

    def set(self, response: Response, name: str, value: str) -> None:
        # Not strict: who follows the link from a mail would come without it.
        response.set_cookie(name, value, max_age=YEAR, httponly=True, samesite="lax")


class _Guard:
    """Lets in neither strangers nor other sites."""

    def __init__(self, app: Any, token: str | None, cookie: str, hosts: set[str]):
        self._app, self._token, self._cookie = app, token, cookie
        self._hosts = hosts | {"localhost", "127.0.0.1", "::1", socket.gethostname().lower()}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":
            return None  # the server closes what nobody accepts

        async def own_send(message: Any) -> None:
            if message["type"] == "http.response.start":
                extra = [(k.lower().encode(), v.encode()) for k, v in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", ()), *extra]}
            await send(message)

        try:
            self._check(Request(scope))
            await self._app(scope, receive, own_send)
        except Refused as refusal:
            await _refuse(None, refusal)(scope, receive, own_send)
        except ClientDisconnect:
            pass
        except Exception as error:  # the visitor has had its answer
            path = scope["path"][:100]
            say(f"unclip study: {path}: {type(error).__name__}: {str(error)[:200]}", error=True)

    def _check(self, request: Request) -> None:
        if self._token is None:
            # Another site whose name leads to this machine (DNS rebinding) is kept out.
            try:
                host = urlsplit(f"//{request.headers.get('host', '')}").hostname
            except ValueError:
                host = None
            if host not in self._hosts:
                line = "This page has no such name; see `unclip study serve --allow-host`."
                raise Refused(421, line)
            return
        given = request.query_params.get("token") if request.url.path == "/" else None
        given = given or request.cookies.get(self._cookie, "")
        if not _same(given, self._token):
            raise Refused(403, "Open the link that whoever runs this study sent you.")


def _refuse(_: Any, refusal: Any) -> Response:
    return JSONResponse({"error": str(refusal)}, refusal.status)


def _busy(_: Any, error: Exception) -> Response:
    say(f"unclip study: votes cannot be read or written: {error}", error=True)
    return JSONResponse({"error": "Votes cannot be saved just now."}, 503)


def _broken(_: Any, error: Exception) -> Response:
    return JSONResponse({"error": "This request cannot be answered."}, 500)


def _same(given: str, secret: str) -> bool:
    return hmac.compare_digest(given.encode(errors="replace"), secret.encode())


async def _body(request: Request) -> dict[str, Any]:
    """The JSON object of a request. Its type keeps other sites from sending one unasked."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise Refused(415, "Send JSON.")
    data = b""
    try:
        async with asyncio.timeout(SLOW):
            async for chunk in request.stream():
                data += chunk
                if len(data) > BODY:
                    raise Refused(413, "Too large.")
    except TimeoutError:
        raise Refused(408, "Too slow.") from None
    try:
        found = json_text.read(data)
    except ValueError:
        raise Refused(400, "This is not JSON.") from None
    if not isinstance(found, dict):
        raise Refused(400, "Send an object.")
    return found
