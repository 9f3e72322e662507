"""What a visitor has drawn, to be chosen again: in the page's memory, gone when it is closed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from unclip.demo.inputs import MAX_CAPTION

MOST = 12
EVENT: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}

Values = list[Any]


def recall(done: Any, given: Sequence[gr.components.Component], headers: Sequence[str]) -> None:
    """A list of the jobs that the event ``done`` has finished; a click fills ``given`` with one.

    Args:
        done: The event, as a listener returns it.
        given: The job's inputs, of which the first ``headers`` are shown.
        headers: Their titles.
    """
    kept = gr.State([])
    count = len(headers)
    earlier = gr.Dataset(
        components=[gr.Textbox(render=False) for _ in headers],
        headers=list(headers),
        samples=[],
        type="index",
        label="Drawn before: click to choose it again",
        visible=False,
    )

    def remember(jobs: list[Values], *values: Any) -> tuple[list[Values], Any]:
        jobs = remembered(jobs, list(values))
        shown = [[str(value) for value in job[:count]] for job in jobs]
        return jobs, gr.Dataset(samples=shown, visible=True)

    done.success(remember, [kept, *given], [kept, earlier], **EVENT)
    earlier.click(chosen(len(given)), [earlier, kept], list(given), **EVENT)


def remembered(jobs: list[Values], values: Values) -> list[Values]:
    """``jobs`` with ``values`` first, each once, `MOST` of them; texts are of bounded length."""
    own = [value[:MAX_CAPTION] if isinstance(value, str) else value for value in values]
    return [own, *(job for job in jobs if job != own)][:MOST]


def chosen(count: int) -> Any:
    """A handler: the values of the job at an index, or nothing new where there is none."""

    def choose(index: Any, jobs: list[Values]) -> Any:
        whole = isinstance(index, int) and 0 <= index < len(jobs)
        return jobs[index] if whole else [gr.skip()] * count

    return choose
