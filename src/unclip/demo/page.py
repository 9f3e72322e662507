"""The page: a tab per thing to do, wired to the studio by way of the desk."""

from __future__ import annotations

import json
import re
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from unclip.common.errors import UserError
from unclip.common.images import save
from unclip.common.seeds import MAX_SEED
from unclip.common.terminal import say
from unclip.demo.canvas import bound_canvas, said
from unclip.demo.compare import Pair
from unclip.demo.desk import Cancelled, Desk
from unclip.demo.history import recall
from unclip.demo.inputs import MAX_CAPTION
from unclip.demo.studio import MAX_IMAGES, Knob, LabelledImage, Studio
from unclip.pipeline.manipulations import DIRECTIONS, NOISES

CAPTIONS = (
    "a large red circle on a white background",
    "a small blue square in the top left",
    "a yellow heart on a black background",
    "a green cross in the middle of a tan background",
)
FEW, MANY = 2, 4  # columns
LARGE = 256  # pixels: smaller images are shown with their pixels as squares
ONE_AT_A_TIME: dict[str, Any] = {
    "concurrency_limit": 1,
    "concurrency_id": "model",
    "api_visibility": "private",
}
PROGRESS = gr.Progress()  # such a default is how a handler asks Gradio for its bar
AT_ONCE: dict[str, Any] = {"queue": False, "api_visibility": "private"}


class _Job(NamedTuple):
    """What a tab does, beyond what all have."""

    work: Callable[..., list[LabelledImage]]
    wanted: list[gr.components.Component]
    knobs: Sequence[Knob]
    n: int  # images at first
    least: int = 1
    recalls: bool = False  # whether earlier jobs can be chosen again


class Page:
    """Builds the page of a studio.

    Args:
        studio: Does the work.
        folder: Gradio's own, which it serves files from: the images go there.
        images: Files to try the tabs with that need an image.
        pair: This studio and another, to be compared.
    """

    def __init__(
        self, studio: Studio, folder: Path, images: Sequence[str] = (), pair: Pair | None = None
    ):
        self.studio = studio
        self._pair = pair
        self._folder = folder
        self.desk = Desk()
        self._images = list(images)

    def build(self) -> gr.Blocks:
        """All of it."""
        size = self.studio.size
        with gr.Blocks(
            title="unclip", analytics_enabled=False, delete_cache=(3600, 86400)
        ) as blocks:
            gr.Markdown(f"# unclip\nImages of {size} × {size} pixels, drawn on this machine.")
            with gr.Tabs():
                self._tab("Draw", "Images of a caption.", self._draw, caption=True)
                if self._pair is not None:
                    self._tab(
                        "Compare",
                        "The same captions and seeds by two cascades, each with its own settings.",
                        self._compare,
                        lacks=self._pair.lacks(),
                    )
                self._tab(
                    "Vary", "Images with the CLIP embedding of yours.", self._vary, caption=False
                )
                self._tab(
                    "Interpolate",
                    "Images on the way from one of yours to another.",
                    self._interpolate,
                    caption=False,
                )
                self._tab(
                    "Edit",
                    "Your image, changed as one caption differs from another.",
                    self._edit,
                    caption=False,
                )
                self._tab(
                    "Inpaint",
                    "A part of your image, painted over and redrawn.",
                    self._inpaint,
                    caption=True,
                )
            blocks.unload(self._cancel)
        return blocks

    def _tab(
        self,
        title: str,
        about: str,
        fill: Callable[[], _Job],
        *,
        caption: bool = True,
        lacks: str | None = None,
    ) -> None:
        """What a tab asks for on the left, what comes of it on the right; below, on a phone."""
        with gr.Tab(title):
            lacks = lacks or self.studio.lacks(caption=caption)
            gr.Markdown(about if lacks is None else lacks)
            if lacks is not None:
                return
            with gr.Row():
                with gr.Column(scale=2, min_width=320):
                    job = fill()
                    count = gr.Slider(job.least, MAX_IMAGES, job.n, step=1, label="Images")
                    with gr.Row(elem_classes="even"):
                        seed = gr.Number(
                            0, label="Seed", precision=0, minimum=0, maximum=MAX_SEED, min_width=120
                        )
                        dice = gr.Button("New seed", min_width=100)
                    with gr.Row():
                        start = gr.Button(title, variant="primary", scale=2, min_width=100)
                        stop = gr.Button("Cancel", min_width=100)
                with gr.Column(scale=3, min_width=320):
                    gallery = self._gallery()
                    with gr.Accordion("Sampling", visible=bool(job.knobs)):
                        turned = [_knob(each) for each in job.knobs]
            given = [*job.wanted, count, seed, *turned]
            running = start.click(self._handler(job.work), given, gallery, **ONE_AT_A_TIME)
            if job.recalls:
                recall(running, given, ["Caption", "Images", "Seed"])
        stop.click(None, cancels=[running], **AT_ONCE)  # the guard tells the desk
        roll = f"() => Math.floor(Math.random() * {MAX_SEED + 1})"
        dice.click(None, None, seed, js=roll, **AT_ONCE)

    def _draw(self) -> _Job:
        caption = _caption()
        gr.Examples([[each] for each in CAPTIONS], caption, label="Examples")
        return _Job(self.studio.generate, [caption], self.studio.captioned, n=4, recalls=True)

    def _compare(self) -> _Job:
        assert self._pair is not None
        return _Job(self._pair.generate, [_caption()], (), n=2, recalls=True)

    def _vary(self) -> _Job:
        upload = self._upload("Image")
        eta = gr.Slider(
            0, 1, 1.0, step=0.05, label="η", info="0 draws the image again; 1 keeps its content"
        )
        return _Job(self.studio.vary, [upload, eta], self.studio.inverted, n=4)

    def _interpolate(self) -> _Job:
        with gr.Row():
            a, b = self._upload("First image"), self._upload("Second image")
        noise = gr.Radio(
            NOISES, value="slerp", label="Noise", info="slerp: also goes from one to the other"
        )
        work = self.studio.interpolate
        return _Job(work, [a, b, noise], self.studio.inverted, n=8, least=2)

    def _edit(self) -> _Job:
        upload = self._upload("Image")
        source = _caption("From: what the image shows", "a red circle")
        target = _caption("To: what it is to show", "a blue circle")
        direction = gr.Radio(
            list(DIRECTIONS),
            value="text",
            label="Direction",
            info="text: as in the paper, θ 0.25 to 0.5; prior: by what the prior draws, θ 1",
        )
        theta = gr.Slider(
            0, 1, DIRECTIONS["text"], step=0.05, label="θ", info="how far the last image goes"
        )
        goes = f"direction => ({json.dumps(DIRECTIONS)})[direction]"
        direction.input(None, direction, theta, js=goes, **AT_ONCE)
        values = [upload, source, target, direction, theta]
        return _Job(self.studio.edit, values, self.studio.edited, n=4)

    def _inpaint(self) -> _Job:
        editor = gr.ImageEditor(
            type="pil",
            label="Image",
            sources=("upload", "clipboard"),
            format="png",
            transforms=(),
            layers=False,
            brush=gr.Brush(
                default_size=self.studio.size // 4, colors=["#ff00ff"], color_mode="fixed"
            ),
            height=400,
        )
        bound_canvas(editor)
        if self._images:
            gr.Examples([[each] for each in self._images], editor, label="Examples")
        caption = _caption("Caption of the whole image")
        return _Job(self.studio.inpaint, [editor, caption], self.studio.inpainted, n=4)

    def _upload(self, label: str) -> gr.Image:
        with gr.Column(min_width=140):
            upload = gr.Image(
                type="filepath",
                label=label,
                sources=["upload", "clipboard"],
                height=220,
                buttons=[],
                elem_classes="pixels",
            )
            upload.preprocess = _path  # type: ignore[method-assign]
            if self._images:
                gr.Examples([[each] for each in self._images], upload, label="Examples")
        return upload

    def _gallery(self) -> gr.Gallery:
        return gr.Gallery(
            label="Images",
            show_label=False,
            columns=FEW,
            fit_columns=False,
            object_fit="contain",
            buttons=["download", "fullscreen"],
            elem_classes=["drawn", "pixels"] if self.studio.size < LARGE else "drawn",
        )

    def _handler(self, work: Callable[..., list[LabelledImage]]) -> Callable[..., Any]:
        def handle(request: gr.Request, progress: Any = PROGRESS, *values: Any) -> Any:
            def told(done: int, total: int) -> None:
                progress((done, total), unit="steps")

            try:
                drawn = self.desk.work(
                    request.session_hash, lambda step: work(*values, progress=step), told
                )
                columns = FEW if len(drawn) <= FEW**2 else MANY
                return gr.update(value=self._files(drawn), columns=columns)
            except Cancelled:
                return gr.skip()
            except UserError as error:
                raise said(str(error)) from None
            except Exception:
                say(traceback.format_exc(), lines=True, error=True)
                raise said("Something went wrong; see the terminal.") from None

        return handle

    def _files(self, drawn: Sequence[LabelledImage]) -> list[tuple[str, str]]:
        """PNG files that say in their names what they are, and their labels."""
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        found = []
        for image, label, record in drawn:
            name = re.sub(r"[^\w.]+", "_", label, flags=re.ASCII).strip("_")
            found.append((str(save(image, folder / f"{name}.png", record)), label))
        return found

    def _cancel(self, request: gr.Request) -> None:
        self.desk.cancel(request.session_hash)


def _caption(label: str = "Caption", example: str = CAPTIONS[0]) -> gr.Textbox:
    return gr.Textbox(label=label, placeholder=example, lines=2, max_length=MAX_CAPTION)


def _knob(knob: Knob) -> gr.components.Component:
    label = knob.label.capitalize()
    if knob.choices:
        return gr.Dropdown(knob.choices, value=knob.first, label=label)
    step = 1 if knob.name == "steps" else 0.1
    return gr.Slider(knob.low, knob.high, knob.first, step=step, label=label)


def _path(payload: Any) -> Any:
    """Where an upload is; Gradio would open it, and say only "Error" of what it cannot read."""
    return payload and payload.path
