"""What a handler of the page answers: images in files, or one line; never a trace."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from unclip.common.errors import UserError
from unclip.demo.studio import LabelledImage

pytestmark = pytest.mark.filterwarnings("ignore")  # Gradio's

ANN = SimpleNamespace(session_hash="ann")


@pytest.fixture
def page(tmp_path):
    from unclip.demo.page import Page

    return Page(None, tmp_path)


def answer(page, work, *values):
    return page._handler(work)(ANN, lambda *args, **named: None, *values)


def test_images_are_png_files_named_by_their_labels(page):
    image = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
    found = answer(page, lambda label, progress: [LabelledImage(image, label)], "θ 0.50, seed 7")
    [(path, label)] = found["value"]
    assert label == "θ 0.50, seed 7"
    assert Image.open(path).format == "PNG"
    assert np.array_equal(Image.open(path), image)
    assert path.endswith("/0.50_seed_7.png")


def fails(error: Exception):
    def work(progress):
        raise error

    return work


def test_what_the_visitor_can_mend_is_said_as_text(page):
    import gradio as gr

    with pytest.raises(gr.Error) as caught:
        answer(page, fails(UserError("caption: <b>")))
    assert caught.value.message == "caption: &lt;b&gt;"
    assert not caught.value.print_exception


def test_what_nobody_expected_is_in_the_terminal_only(page, capsys):
    import gradio as gr

    with pytest.raises(gr.Error) as caught:
        answer(page, fails(ValueError("a secret path")))
    assert caught.value.message == "Something went wrong; see the terminal."
    assert not caught.value.print_exception
    assert "ValueError: a secret path" in capsys.readouterr().err


def test_cancel_of_the_same_window_stops_and_leaves_the_images(page):
    import gradio as gr

    def work(progress):
        progress(1, 9)
        page._cancel(ANN)
        progress(2, 9)
        raise AssertionError("went on")

    assert answer(page, work) == gr.skip()
