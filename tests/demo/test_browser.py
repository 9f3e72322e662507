"""The page in a real browser: drawn, downloaded, cancelled, refused, on a desktop and a phone."""

from __future__ import annotations

import io
import os
import shutil
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import axe
import numpy as np
import pytest
from PIL import Image

from unclip.common.images import to_uint8
from unclip.pipeline.pipeline import Pipeline

CHROMIUM = shutil.which("chromium")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync")
TABS = ("Draw", "Vary", "Interpolate", "Edit", "Inpaint")
PATIENCE = 120_000  # milliseconds, on a machine that has other things to do

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium"),
]


@contextmanager
def serving(folder, log, *words):
    """The address of the page of a cascade's ``folder``, which is to write nothing to ``log``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "unclip", "demo", "--pipeline", folder, "--port", str(port)]
    with log.open("w") as errors:
        process = subprocess.Popen(
            [*command, *words],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=os.environ | {"PYTHONPATH": f"{root / 'src'}:{root}", "OMP_NUM_THREADS": "1"},
        )
        try:
            assert process.stdout.readline() == f"http://127.0.0.1:{port}\n", log.read_text()
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.communicate(timeout=PATIENCE / 1000)
    assert process.returncode == 0
    assert log.read_text() == ""


@pytest.fixture(scope="module")
def server(cascade, tmp_path_factory):
    """Address of the page of the minute cascade, and the file of what it writes to stderr."""
    log = tmp_path_factory.mktemp("demo") / "stderr"
    with serving(cascade, log) as address:
        yield address, log


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield found
        found.close()


@pytest.fixture
def visit(server, browser):
    """Opens the page in a window of its own; nothing but the server may be asked for anything."""
    address, _ = server
    contexts, hosts = [], set()

    def open_page(width: int = 1280):
        context = browser.new_context(viewport={"width": width, "height": 900})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert hosts - {""} == {urlsplit(address).netloc}  # "": data: and blob:


def tab(page, name: str):
    page.get_by_role("tab", name=name).click()
    return page.locator("[role=tabpanel]:visible")


def press(panel, name: str) -> None:
    panel.get_by_role("button", name=name, exact=True).click()


def draw(panel, caption: str, *, n: int, seed: int) -> None:
    panel.get_by_label("Caption").fill(caption)
    turn(panel, "Images", n)
    panel.get_by_label("Seed").fill(str(seed))
    press(panel, "Draw")


def turn(panel, knob: str, value: int) -> None:
    box = panel.get_by_label(f"number input for {knob}")
    box.fill(str(value))
    box.press("Tab")


def labels(panel, count: int) -> list[str]:
    """Those of the images, once there are ``count``."""
    found = panel.locator(".drawn .caption-label")
    found.nth(count - 1).wait_for()
    return [each.strip() for each in found.all_inner_texts()]


def test_a_downloaded_image_is_the_pipelines_of_the_seed_shown(visit, cascade):
    page = visit()
    panel = tab(page, "Draw")
    draw(panel, "a red circle", n=1, seed=11)
    assert labels(panel, 1) == ["seed 11"]
    panel.locator(".drawn img").first.click()
    with page.expect_download() as download:
        panel.get_by_label("Download").first.click()
    assert download.value.suggested_filename == "seed_11.png"
    found = Image.open(io.BytesIO(download.value.path().read_bytes()))
    truth = to_uint8(Pipeline.load(cascade).generate(["a red circle"], [11]).image)
    assert found.format == "PNG"
    assert np.array_equal(np.asarray(found), truth[0])


def test_cancel_ends_a_job_and_the_next_one_draws(visit):
    panel = tab(visit(), "Draw")
    turn(panel, "Decoder steps", 250)
    draw(panel, "a red circle", n=16, seed=0)
    panel.get_by_text("/258 steps").wait_for()
    press(panel, "Cancel")
    panel.get_by_text("/258 steps").wait_for(state="detached")
    assert panel.locator(".drawn .caption-label").count() == 0
    turn(panel, "Decoder steps", 4)
    draw(panel, "a red circle", n=2, seed=3)
    assert labels(panel, 2) == ["seed 3", "seed 4"]


def test_two_visitors_get_their_own(visit):
    panels = [tab(visit(), "Draw") for _ in range(2)]
    for k, panel in enumerate(panels):
        draw(panel, "a red circle", n=1, seed=20 + k)
    assert [labels(panel, 1) for panel in panels] == [["seed 20"], ["seed 21"]]


READ = "not an image that can be read"
BAD = {"name": "notes.png", "mimeType": "image/png", "buffer": b"only a text"}


@pytest.mark.parametrize(
    ("name", "at", "message"),
    [
        ("Vary", 0, f"image: {READ}"),
        ("Interpolate", 0, f"first image: {READ}"),
        ("Interpolate", 1, f"second image: {READ}"),
        ("Edit", 0, f"image: {READ}"),
        ("Inpaint", 0, "image: none was read; upload a PNG or JPEG"),  # read in the browser
    ],
)
def test_every_editor_answers_a_text_named_png_in_one_line(visit, server, name, at, message):
    page = visit()
    panel = tab(page, name)
    for box in panel.get_by_role("textbox").all():
        box.fill("a red circle")
    field = panel.locator("input[type=file]").nth(at)
    if name == "Inpaint":
        field.set_input_files(BAD)
    else:
        with page.expect_response("**/upload*"):
            field.set_input_files(BAD)
        panel.get_by_label("Remove Image").wait_for()
        if at:  # what comes before it is an image
            panel.locator("button.gallery-item").first.click()
            panel.get_by_label("Remove Image").nth(1).wait_for()
    press(panel, name)
    toast = page.get_by_test_id("toast-body").first
    toast.wait_for()
    _title, _cross, line = toast.inner_text().strip().splitlines()
    assert line.startswith(message)
    assert "Traceback" not in page.content()
    assert server[1].read_text() == ""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_inaccessible(visit, scheme):
    page = visit()
    page.emulate_media(color_scheme=scheme)
    page.reload()
    for name in TABS:
        tab(page, name).get_by_role("button", name=name, exact=True).wait_for()
        assert axe.violations(page) == []


def test_an_empty_caption_is_asked_for(visit):
    page = visit()
    press(tab(page, "Draw"), "Draw")
    toast = page.get_by_test_id("toast-body")
    toast.wait_for()
    assert "caption: write one first" in toast.inner_text()


def test_an_uploaded_image_is_varied(visit):
    panel = tab(visit(), "Vary")
    panel.locator("button.gallery-item").first.click()
    panel.locator(".image-frame img").wait_for()
    press(panel, "Vary")
    assert labels(panel, 4) == ["seed 0", "seed 1", "seed 2", "seed 3"]


def test_each_direction_of_an_edit_has_its_own_theta(visit):
    from playwright.sync_api import expect

    panel = tab(visit(), "Edit")
    theta = panel.get_by_label("number input for θ")
    for direction, value in (("prior", "1"), ("text", "0.4")):
        panel.get_by_label(direction, exact=True).check()
        expect(theta).to_have_value(value)


def test_a_brush_stroke_is_drawn_anew(visit):
    page = visit()
    panel = tab(page, "Inpaint")
    panel.locator("button.gallery-item").first.click()
    panel.get_by_label("Brush").first.click()
    at = panel.locator("canvas").first.bounding_box()
    page.mouse.move(at["x"] + at["width"] / 2, at["y"] + at["height"] / 2)
    page.mouse.down()
    page.mouse.move(at["x"] + at["width"] / 2 + 30, at["y"] + at["height"] / 2, steps=5)
    page.mouse.up()
    panel.get_by_label("Caption of the whole image").fill("a blue circle")
    press(panel, "Inpaint")
    assert labels(panel, 4)[0] == "seed 0"


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(visit, width):
    page = visit(width)
    for name in TABS:
        tab(page, name).get_by_role("button", name=name, exact=True).wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.parametrize("path", ["/etc/hostname", "pyproject.toml"])
def test_no_other_file_is_served(visit, server, path):
    page = visit()
    answer = page.request.get(f"{server[0]}/gradio_api/file={Path(path).absolute()}")
    assert answer.status == 403


def test_a_tab_that_a_missing_part_makes_useless_says_so(browser, cascade, tmp_path):
    for part in ("clip", "decoder"):
        shutil.copytree(cascade / part / "artifact", tmp_path / part)
    with serving(tmp_path, tmp_path / "stderr") as address, browser.new_page() as page:
        page.set_default_timeout(PATIENCE)
        page.goto(address)
        for name in TABS:
            panel = tab(page, name)
            needs_prior = name in ("Draw", "Inpaint")
            panel.get_by_text("needs a prior" if needs_prior else "Sampling").wait_for()
            assert panel.get_by_role("button", name=name, exact=True).count() == 1 - needs_prior


def test_two_cascades_draw_the_same_seeds_side_by_side(browser, cascade, tmp_path):
    for part in ("clip", "prior", "decoder"):
        shutil.copytree(cascade / part, tmp_path / "small" / part)
    words = ("--compare", str(tmp_path / "small"))
    with serving(cascade, tmp_path / "stderr", *words) as address, browser.new_page() as page:
        page.set_default_timeout(PATIENCE)
        page.goto(address)
        panel = tab(page, "Compare")
        panel.get_by_label("Caption").first.fill("a red circle")
        panel.get_by_label("Seed").first.fill("4")
        press(panel, "Compare")
        name = Path(cascade).name
        wanted = [f"{who}, seed {seed}" for seed in (4, 5) for who in (name, "small")]
        assert labels(panel, 4) == wanted


def test_what_was_drawn_is_chosen_again_by_a_click(visit):
    from playwright.sync_api import expect

    panel = tab(visit(), "Draw")
    for caption, seed in (("a red circle", 8), ("a blue square", 9)):
        draw(panel, caption, n=1, seed=seed)
        panel.locator(".drawn .caption-label", has_text=f"seed {seed}").wait_for()
    panel.get_by_role("gridcell", name="a red circle").or_(
        panel.get_by_text("a red circle")
    ).last.click()
    expect(panel.get_by_label("Caption").first).to_have_value("a red circle")
    expect(panel.get_by_label("Seed").first).to_have_value("8")
