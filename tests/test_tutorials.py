"""Every tutorial runs from top to bottom, and shows what came of its cells."""

from __future__ import annotations

import importlib.util
import re
import shutil

import pages
import pytest
import reader
import shown
from nbformat import v4
from PIL import Image

SITE = pages.ROOT / "docs" / "site" / "tutorials.py"
PAGES = sorted((pages.ROOT / "docs" / "tutorials").glob("*.md"))
LARGEST = 150_000  # bytes of an image
BLOCK = re.compile(r"<!-- (run;(?:(?!-->).)*)-->\n(```(?:bash|python)\n.*?```)", re.S)


@pytest.fixture(scope="module")
def tutorials():
    spec = importlib.util.spec_from_file_location("site_tutorials", SITE)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def shrunk(text):
    """A page with what its comments say of a run on minute networks."""

    def smaller(match):
        block = match[2]
        for before, after in shown.changes(match[1]):
            assert before in block, before
            block = block.replace(before, after)
        return block

    return BLOCK.sub(smaller, text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_tutorial_shows_small_images_and_what_its_cells_print(page, tutorials):
    text = page.read_text(encoding="utf-8")
    images = tutorials.IMAGE.findall(text)
    assert len(images) == text.count("](../images/tutorials/")
    for _, alt, target in images:
        file = page.parent / target
        assert alt
        assert file.stat().st_size < LARGEST, file
        with Image.open(file) as image:
            assert max(image.size) <= tutorials.LARGEST
    cells = tutorials.with_outputs(page).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    outputs = [each for cell in code for each in cell.outputs]
    assert len(outputs) == text.count("<!-- output")
    assert all(each.text.strip() for each in outputs if each.output_type == "stream")


def test_every_image_of_the_tutorials_is_shown():
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for file in (pages.ROOT / "docs" / "images" / "tutorials").iterdir():
        assert f"](../images/tutorials/{file.name})" in text, file.name


def test_outputs_are_replaced_by_what_a_cell_printed_and_drew(tutorials, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# Page\n\n```python\nprint(1 + 1)\n```\n\n<!-- output -->\n```text\nold\n```\n\n"
        "```bash\nfalse | true\n```\n"
    )
    book = tutorials.notebook(page.read_text())
    assert [cell.cell_type for cell in book.cells] == ["markdown", "code", "markdown", "code"]
    assert book.cells[3].source == "%%bash -e -o pipefail\nfalse | true"
    book.cells[1].outputs = [
        v4.new_output("stream", name="stderr", text="a bar"),
        v4.new_output("stream", name="stdout", text="\x1b[1m2\x1b[0m  \n"),
    ]
    assert "```text\n2\n```" in tutorials.refreshed(page, book, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_tutorial_runs_on_minute_networks(page, readers_folder, tutorials, tmp_path):
    folder = tmp_path / "w"
    shutil.copytree(readers_folder, folder, symlinks=True)
    text = shrunk(page.read_text(encoding="utf-8"))
    executed = tutorials.execute(tutorials.notebook(text), folder, **reader.variables(folder))
    for file, _, _ in tutorials.IMAGE.findall(text):
        assert (folder / file).is_file()
    for cell, after in tutorials.answered(executed):
        if tutorials.TEXT.search(after.source):
            assert tutorials.printed(cell).strip(), cell.source
