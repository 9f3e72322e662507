"""Gradio's editor of images within bounds: what a visitor sends it is held in memory."""

from __future__ import annotations

import html
from typing import Any

import gradio as gr

from unclip.demo.inputs import MAX_BYTES

LAYERS = 2  # the page's brush has one
CANVASES = 32  # held at the same time, of at most `MAX_BYTES` each


def said(message: str) -> gr.Error:
    """An error that the page shows as text."""
    return gr.Error(html.escape(message), print_exception=False)


def bound_canvas(editor: gr.ImageEditor) -> None:
    """Bound what ``editor`` holds, and have it say what is wrong with what it cannot read."""
    preprocess, accept = editor.preprocess, editor.accept_blobs
    held = editor.blob_storage

    def bounded_preprocess(payload: Any) -> Any:
        try:
            given = held.get(payload.id) if payload and payload.id is not None else payload
            if given is not None:
                if len(given.layers or ()) > LAYERS:
                    raise ValueError
                given.composite = None  # the page has no use for it
            return preprocess(payload)
        except Exception:
            raise said("image: cannot be read") from None

    def bounded_accept(data: Any) -> None:
        index = data.data.get("index")
        if index not in ("", "null", None, *map(str, range(LAYERS))):
            raise ValueError(f"an image has at most {LAYERS} layers")
        key = data.data["id"]
        accept(data)
        held[key] = canvas = held.pop(key)  # the newest is the last
        canvas.composite = None
        parts = [part or b"" for part in (canvas.background, *canvas.layers)]
        if sum(map(len, parts)) > MAX_BYTES:
            del held[key]
            raise ValueError(f"an image has at most {MAX_BYTES} bytes")
        while len(held) > CANVASES:
            del held[next(iter(held))]

    bounded_accept._is_server_fn = True  # type: ignore[attr-defined]
    editor.preprocess = bounded_preprocess  # type: ignore[method-assign]
    editor.accept_blobs = bounded_accept  # type: ignore[method-assign]
