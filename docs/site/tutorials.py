"""The tutorials: pages that are notebooks too, and what they print and draw.

    python docs/site/tutorials.py [NAME ...] [--folder DIR]

A page in docs/tutorials is Markdown, read as a notebook by jupytext: its ```bash and ```python
blocks are cells. Two comments say what came of the cell above:

    <!-- output: samples/vary.png -->       the image below is this file of the reader's folder
    <!-- output -->                         the ```text block below is what the cell printed

This command (``make tutorials``) executes the pages and rewrites both. So the repository
has text and small images, diffs show what changed, and a reader sees what was really drawn.
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import jupytext
from nbclient import NotebookClient
from nbformat import NotebookNode, v4
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "tutorials"
IMAGE = re.compile(r"<!-- output: (\S+) -->\n!\[([^\]]*)\]\(([^)\s]+)\)")
TEXT = re.compile(r"(<!-- output -->\n+```text\n)(.*?)(```)", re.S)
COLOUR = re.compile(r"\x1b\[[\d;]*m")
LARGEST = 800  # pixels of an image's longer side
KERNEL = """---
jupyter:
  kernelspec: {name: python3, display_name: Python 3, language: python}
---

"""
TIMEOUT = 1800  # seconds of a cell


def main(names: list[str], folder: Path) -> None:
    """Execute the pages in a reader's folder and keep what they made."""
    for page in sorted(PAGES.glob("*.md")):
        if not names or page.stem in names:
            executed = execute(notebook(page.read_text(encoding="utf-8")), folder)
            page.write_text(refreshed(page, executed, folder), encoding="utf-8")
            print(f"{page.relative_to(ROOT)}: executed", flush=True)


def notebook(text: str) -> NotebookNode:
    """A page's text as a notebook; a shell cell stops at the first command that fails."""
    found = jupytext.reads(KERNEL + text, fmt="md")
    for cell in found.cells:
        cell.source = re.sub(r"\A%%bash\n", "%%bash -e -o pipefail\n", cell.source)
    return found


def execute(found: NotebookNode, folder: Path, **variables: str) -> NotebookNode:
    """Run all cells in ``folder``, with environment variables besides.

    Raises:
        CellExecutionError: a cell failed.
    """
    resources = {"metadata": {"path": str(folder)}}
    client = NotebookClient(found, timeout=TIMEOUT, kernel_name="python3", resources=resources)
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return client.execute(env=env | variables)


def printed(cell: NotebookNode) -> str:
    """What a cell wrote to standard output, without colours and spaces at line ends."""
    parts = (
        each.text for each in cell.outputs if each.output_type == "stream" and each.name == "stdout"
    )
    text = COLOUR.sub("", "".join(parts))
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines()) + "\n"


def answered(executed: NotebookNode) -> Iterator[tuple[NotebookNode, NotebookNode]]:
    """Each cell with the text right after it."""
    for cell, after in zip(executed.cells, executed.cells[1:]):
        if cell.cell_type == "code" and after.cell_type == "markdown":
            yield cell, after


def refreshed(page: Path, executed: NotebookNode, folder: Path) -> str:
    """The page's text with what was printed; its images are written beside it."""
    text = page.read_text(encoding="utf-8")
    for cell, after in answered(executed):
        for shown in TEXT.finditer(after.source):
            new = f"{shown[1]}{printed(cell)}{shown[3]}"
            text = text.replace(after.source, after.source.replace(shown[0], new))
    for file, _, target in IMAGE.findall(text):
        keep(folder / file, page.parent / target)
    return text


def keep(file: Path, target: Path) -> None:
    """Write an image as the pages have it: no larger than a page shows it, without metadata."""
    image = Image.open(file).convert("RGB")
    image.thumbnail((LARGEST, LARGEST))
    target.parent.mkdir(parents=True, exist_ok=True)
    image.save(target, quality=88, method=6)


def with_outputs(page: Path) -> NotebookNode:
    """The page as an executed notebook, of the outputs that it shows."""
    found = notebook(page.read_text(encoding="utf-8"))
    for cell, after in answered(found):
        for shown in TEXT.finditer(after.source):
            cell.outputs.append(v4.new_output("stream", name="stdout", text=shown[2]))
        for _, alt, target in IMAGE.findall(after.source):
            buffer = io.BytesIO()
            Image.open(page.parent / target).save(buffer, "PNG")
            data = {"image/png": base64.b64encode(buffer.getvalue()).decode(), "text/plain": alt}
            cell.outputs.append(v4.new_output("display_data", data=data))
        after.source = TEXT.sub("", IMAGE.sub("", after.source)).strip()
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="such as manipulate (default all)")
    parser.add_argument(
        "--folder", type=Path, default=Path(), help="with runs/quickstart (default here)"
    )
    given = parser.parse_args()
    main(given.names, given.folder.resolve())
