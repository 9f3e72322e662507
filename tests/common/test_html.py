"""Pages show texts as they are, and need no other file."""

from __future__ import annotations

import html
from pathlib import Path

import jinja2
import pytest
from PIL import Image

import unclip
from unclip.common.html import render, with_code

SCRIPT = "<script>alert('x')</script>"
PACKAGE = Path(unclip.__file__).parent
TEMPLATES = [
    p for p in PACKAGE.rglob("templates/*.html") if p.name not in ("base.html", "macros.html")
]


def page(tmp_path, body: str, **context) -> str:
    file = tmp_path / "page.html"
    file.write_text(f'{{% extends "base.html" %}}{{% block body %}}{body}{{% endblock %}}')
    return render(file, **context)


def test_texts_tables_and_names_of_images_are_escaped(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    text = page(
        tmp_path,
        "{{ text }}{{ rows([[text], [text]]) }}{{ image(path, alt) }}{{ text | code }}",
        alt=f'{SCRIPT}" onload="x',
        text=SCRIPT,
        path=tmp_path / "a.png",
    )
    assert "<script" not in text
    assert '" onload' not in text
    assert html.unescape(text).count(SCRIPT) == 5
    assert 'src="data:image/png;base64,' in text
    assert "default-src 'none'; img-src data:;" in text


def test_backticks_are_code_and_nothing_else_is_markup():
    assert str(with_code("run `a <b>` & see")) == "run <code>a &lt;b&gt;</code> &amp; see"


def test_a_name_that_is_missing_is_an_error(tmp_path):
    with pytest.raises(jinja2.UndefinedError, match="nothing"):
        page(tmp_path, "{{ nothing }}")


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_no_template_switches_escaping_off_or_loads_from_elsewhere(path):
    text = path.read_text()
    assert "safe" not in text.replace("safetensors", "")
    assert "autoescape" not in text
    assert "http" not in text
    assert "src=" not in text
