"""HTML pages from Jinja2 templates: every text is escaped, every image is inside the page."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

SHARED = Path(__file__).parent / "templates"


def render(template: Path, **context: Any) -> str:
    """The page that a template file makes of ``context``.

    Templates extend ``base.html``. Whatever is put into one is escaped; a name that is missing
    from ``context`` is an error.

    Args:
        template: The file; templates beside it and the shared ones can be included.
        context: What the template names.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, SHARED]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"data_uri": data_uri, "code": with_code}
    return environment.get_template(template.name).render(**context)


def data_uri(path: Path) -> str:
    """A PNG file as the address of an image."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def with_code(text: str) -> Markup:
    """``text`` escaped, with what stands in backticks as code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))
