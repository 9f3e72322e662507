"""The page as a server: Gradio behind the guard, and jobs that nobody waits for ended."""

from __future__ import annotations

import asyncio
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image
from starlette.applications import Starlette

from unclip.common.serving import PageServer
from unclip.common.terminal import say
from unclip.demo.compare import Pair
from unclip.demo.desk import Desk
from unclip.demo.guard import Guard
from unclip.demo.inputs import MAX_BYTES, MAX_PIXELS
from unclip.demo.page import Page
from unclip.demo.studio import Studio

QUEUE = 16  # jobs that wait at most
PATIENCE = 10  # seconds that a job goes on while nobody listens


def build_server(
    studio: Studio,
    folder: Path,
    host: str,
    port: int,
    names: Collection[str] = (),
    images: Sequence[str] = (),
    pair: Pair | None = None,
) -> Server:
    """A server whose ``run`` serves the page of ``studio``.

    Args:
        studio: Does the work.
        folder: Gradio's own, which it serves files from.
        host: Where to listen.
        port: Likewise.
        names: Further names that visitors reach the page by.
        images: Examples, in ``folder``.
        pair: ``studio`` and another, to be compared.
    """
    # Gradio opens the canvas of the editor itself: Pillow refuses more than twice this.
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    traceback.print_exc = _print_error  # Gradio's answer to whatever a visitor sends
    page = Page(studio, folder, images, pair)
    blocks = page.build()
    blocks.queue(max_size=QUEUE, api_open=False)
    app = gr.mount_gradio_app(
        Starlette(),
        blocks,
        "/",
        server_name=host,
        server_port=port,
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=MAX_BYTES,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        theme=gr.themes.Default(
            primary_hue="indigo", font=["system-ui", "sans-serif"], font_mono=["monospace"]
        ).set(button_primary_background_fill="*primary_600"),  # white on 500 is too pale
        css_paths=Path(__file__).with_name("page.css"),
        head_paths=Path(__file__).with_name("head.html"),
    )
    # What `launch` would do: else `close` does nothing, and any path passes for an upload.
    blocks.is_running = blocks.has_launched = True
    guard = Guard(
        app,
        folder,
        host=host,
        names=names,
        jobs_of=lambda client: sum(_client(job) == client for job in _jobs(blocks)),
        cancel=page.desk.cancel,
    )
    return Server(guard, blocks, page.desk, host, port)


class Server(PageServer):
    """Ends jobs that nobody waits for, and all jobs in the end."""

    def __init__(self, guard: Guard, blocks: gr.Blocks, desk: Desk, host: str, port: int):
        super().__init__(guard, host, port)
        self._guard, self._blocks, self._desk = guard, blocks, desk

    async def startup(self, sockets: Any = None) -> None:
        """Listen."""
        await super().startup(sockets)
        self._watch = asyncio.create_task(self._end_unwanted())

    async def shutdown(self, sockets: Any = None) -> None:
        """Stop all jobs, and take leave of those who listen."""
        self._desk.close()
        self._watch.cancel()
        self._blocks.close(verbose=False)
        self._guard.close()
        await super().shutdown(sockets)

    async def _end_unwanted(self) -> None:
        """Every second, end the jobs that nobody has listened to for `PATIENCE` seconds."""
        alone: Counter[str | None] = Counter()
        while True:
            await asyncio.sleep(1)
            jobs = _jobs(self._blocks)
            wanted = {job.session_hash for job in jobs} & self._guard.listening.keys()
            sessions = {job.session_hash for job in jobs} | self._desk.owners
            alone = Counter({each: alone[each] + 1 for each in sessions - wanted})
            ended = [each for each, seconds in alone.items() if seconds >= PATIENCE]
            for session in ended:  # those that wait first: none is to begin
                await self._blocks._queue.clean_events(session_hash=session)
            for session in ended:
                self._desk.cancel(session)


def _jobs(blocks: gr.Blocks) -> list[Any]:
    """What waits in Gradio's queue, or runs."""
    queue = blocks._queue
    waiting = [job for each in queue.event_queue_per_concurrency_id.values() for job in each.queue]
    return waiting + [job for jobs in queue.active_jobs for job in jobs or ()]


def _client(job: Any) -> str | None:
    return job.request.client.host if job.request and job.request.client else None


def _print_error(*_: Any, **__: Any) -> None:
    error = sys.exception()
    say(f"unclip demo: {type(error).__name__}: {str(error)[:200]}", error=True)
