"""Serves the page on which raters vote."""

from __future__ import annotations

import contextlib
import secrets
import signal
from collections.abc import Collection

from unclip.common.listening import is_loopback
from unclip.common.serving import PageServer
from unclip.study.app import build_app
from unclip.study.desk import Desk
from unclip.study.study import Study
from unclip.study.votes import Votes


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
        PageServer(app, host, port, query=f"/?token={token}" if token else "").run()
