"""Serve the page, to this machine alone unless told otherwise."""

from __future__ import annotations

import ipaddress
import logging
import os
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

from unclip.common.errors import UserError
from unclip.demo.inputs import MAX_BYTES, MAX_PIXELS
from unclip.pipeline.pipeline import Pipeline

QUEUE = 16  # jobs that wait at most


def check_address(host: str, port: int) -> None:
    """Raise `UserError` if nobody can listen there: known before the models are loaded."""
    try:
        if not 0 < port < 2**16:
            raise OSError("the port must be from 1 to 65535")
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.create_server(address[:2], family=family):
            pass
    except OSError as error:
        raise UserError(f"--host {host} --port {port}: {error.strerror or error}") from None


def serve(pipeline: Pipeline, *, host: str, port: int) -> None:
    """Until Ctrl-C. What visitors upload and draw lies in a folder that is removed in the end."""
    with tempfile.TemporaryDirectory(prefix="unclip-demo-") as folder:
        # Gradio reads these when it is imported.
        os.environ.update(
            GRADIO_ANALYTICS_ENABLED="False", GRADIO_RUN_HISTORY="False", GRADIO_TEMP_DIR=folder
        )
        import gradio as gr
        from PIL import Image

        from unclip.demo.page import Page
        from unclip.demo.studio import Studio

        # Gradio opens the canvas of the editor itself: Pillow refuses more than twice this.
        Image.MAX_IMAGE_PIXELS = MAX_PIXELS
        blocks = Page(Studio(pipeline), Path(folder), _examples(Path(folder))).build()
        blocks.queue(max_size=QUEUE, api_open=False)
        blocks.launch(
            server_name=host,
            server_port=port,
            share=False,
            prevent_thread_lock=True,
            quiet=True,
            show_error=False,
            max_file_size=MAX_BYTES,
            allowed_paths=[],
            ssr_mode=False,
            mcp_server=False,
            enable_monitoring=False,
            footer_links=[],
            theme=gr.themes.Default(
                primary_hue="indigo", font=["system-ui", "sans-serif"], font_mono=["monospace"]
            ),
            css_paths=Path(__file__).with_name("page.css"),
        )
        if not _is_loopback(host):
            print(
                f"unclip: warning: --host {host} lets in whoever reaches this machine; "
                "the page has no password",
                file=sys.stderr,
            )
        logging.getLogger("uvicorn.error").addFilter(_is_an_error)
        print(f"http://{host}:{port}", flush=True)
        _wait()
        blocks.close(verbose=False)


def _wait() -> None:
    """Until Ctrl-C or a polite kill."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        pass


def _is_an_error(record: logging.LogRecord) -> bool:
    """A visitor who closes the page while it talks is none; uvicorn would print a trace."""
    from starlette.requests import ClientDisconnect

    return not (record.exc_info and isinstance(record.exc_info[1], ClientDisconnect))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _examples(folder: Path) -> list[str]:
    """Files of scenes, for who has no image at hand."""
    from unclip.common.images import save
    from unclip.data.scenes.render import Item, Scene, draw

    shown = (("red", "circle", "white"), ("blue", "square", "grey"), ("yellow", "heart", "black"))
    paths = []
    for colour, shape, background in shown:
        item = Item(shape=shape, colour=colour, size="large", x=0.5, y=0.5, radius=0.21)
        path = folder / f"{colour}_{shape}.png"
        paths.append(str(save(draw(Scene(background=background, items=(item,)), 256), path)))
    return paths
