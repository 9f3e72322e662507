"""Serve the page, to this machine alone unless told otherwise."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from unclip.common.listening import is_loopback
from unclip.common.terminal import VisibleStream, say
from unclip.pipeline.pipeline import Pipeline


def serve(
    pipeline: Pipeline,
    *,
    host: str,
    port: int,
    names: Sequence[str] = (),
    compared: dict[str, Pipeline] | None = None,
) -> None:
    """Until Ctrl-C. What visitors upload and draw lies in a folder that is removed in the end.

    Args:
        pipeline: Draws.
        host: Where to listen.
        port: Likewise.
        names: Further names that visitors reach the page by.
        compared: Two pipelines, ``pipeline`` among them, by the names to show.
    """
    with (
        tempfile.TemporaryDirectory(prefix="unclip-demo-") as folder,
        contextlib.redirect_stderr(VisibleStream(sys.stderr)),
    ):
        # Gradio reads these when it is imported.
        os.environ.update(
            GRADIO_ANALYTICS_ENABLED="False", GRADIO_RUN_HISTORY="False", GRADIO_TEMP_DIR=folder
        )
        tempfile.tempdir = folder
        from unclip.demo.compare import Pair
        from unclip.demo.server import build_server
        from unclip.demo.studio import Studio

        images = _examples(Path(folder))
        studios = {name: Studio(each) for name, each in (compared or {}).items()}
        pair = Pair(studios) if studios else None
        server = build_server(Studio(pipeline), Path(folder), host, port, names, images, pair)
        if not is_loopback(host):
            say(
                f"unclip: warning: --host {host} lets in whoever reaches this machine; "
                "the page has no password",
                error=True,
            )
        # The server hands on the signal that ended it.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with contextlib.suppress(KeyboardInterrupt):
            server.run()


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
