"""What the project's HTML pages share: their style, embedded images, tables."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path

STYLE = """
body{font:16px/1.5 system-ui,sans-serif;color:#222;
max-width:1100px;margin:2rem auto;padding:0 1rem}
img{max-width:100%;height:auto} table{border-collapse:collapse;margin:1rem 0}
td,th{border-bottom:1px solid #ddd;padding:.25rem .8rem;text-align:left;
font-variant-numeric:tabular-nums}
h1{font-size:1.6rem} h2{font-size:1.2rem;margin-top:2.2rem}
code{background:#f4f4f4;padding:0 .3em}
.scroll{overflow-x:auto}
"""


def embedded(path: Path, alt: str) -> str:
    """A PNG as an element that needs no file beside the page."""
    code = base64.b64encode(path.read_bytes()).decode()
    source = f"data:image/png;base64,{code}"
    return f'<div class="scroll"><img alt="{html.escape(alt)}" src="{source}"></div>'


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text, the first one the titles."""
    head, *body = rows
    cells = "".join(f"<th>{html.escape(c)}</th>" for c in head)
    lines = ["<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in body]
    return f"<table><tr>{cells}</tr>{''.join(lines)}</table>"
