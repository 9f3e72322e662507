"""What a stranger writes into a run stays plain text in its card."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from unclip.common.markdown import plain_markdown
from unclip.sharing.card import DescribedStage, card

MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])
EVIL = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[click](javascript:alert(1))",
    "![spy](https://example.org/a.png)",
    "<https://example.org>",
    "[a]: javascript:alert(1)\n\n[a]",
    "\\<b>bold\\</b> \\[x](javascript:y)",
    "&lt;script&gt; &#60;script&#62; &#x3c;",
    "```html\n<script>\n```",
    "`code` ``<i>``",
    "a | b\n--- | ---\nc | d",
    "heading\n===\n# more #",
    "1. one\n2) two\n- three\n+ four\n* five",
    "---\nlicense: mit\n---",
    "    <b>",
    "$$x$$ \\(y\\) ~~gone~~ *a* __b__ _c_",
    "https://example.org www.example.org WWW.example.org me@example.org",
    "right to \u202eleft\u202c, \x00 and \x1b[31m",
]


def shown(markdown: str) -> str:
    """The text of Markdown that must be one paragraph of nothing but text."""
    opened, inline, closed = MARKDOWN.parse(markdown)
    assert (opened.type, closed.type) == ("paragraph_open", "paragraph_close")
    assert {token.type for token in inline.children} <= {"text", "text_special"}
    return "".join(token.content for token in inline.children)


def seen(text: str) -> str:
    return " ".join("".join(c for c in text if c.isprintable() or c.isspace()).split())


@pytest.mark.parametrize("text", EVIL)
def test_markup_is_shown_and_not_obeyed(text):
    assert shown(plain_markdown(text)) == seen(text)
    assert "<" not in plain_markdown(text)
    # What renderers that know bare addresses would make links of.
    assert not re.search(r"(?i)(?<!\\)://|www\.|(?<!\\)@", plain_markdown(text))


@given(st.text("\\`*_{}[]()<>#+-.!|~$&;:=/ \n\t\"'0a1b&lt;", min_size=1).filter(seen))
def test_any_text_is_shown_as_it_is(text):
    assert shown(plain_markdown(text)) == seen(text)


def test_words_of_the_field_stay_readable():
    for text in ("Samples z_i at 3.5 steps (50 %), lr=1e-3.", "val/loss_q0", "open_clip:ViT-L-14"):
        assert plain_markdown(text) == text


@pytest.mark.parametrize("evil", EVIL)
def test_no_text_of_a_run_becomes_markup_in_its_card(packed, evil):
    members = packed()
    experiment = yaml.safe_load(members["experiment.yaml"])
    provenance = json.loads(members["provenance.json"])
    experiment |= {"about": evil}
    experiment["data"] |= {"source": evil, "embeddings": None}
    experiment["trainer"] |= {"precision": evil}
    provenance |= {"machine": evil, "packages": {evil: evil}, "git_revision": evil}
    provenance |= {"data_fingerprint": evil, "metrics": {evil: 1.0}}
    samples = ["samples/step_](javascript:alert(1)) <b>.png"]
    stage = DescribedStage("", experiment, provenance, {"clip": evil}, samples)
    text = card(name=evil, stages=[stage], weights=True, licence="other")
    _, head, body = text.split("---\n", 2)
    assert yaml.safe_load(head)["license"] == "other"
    tokens = list(MARKDOWN.parse(body))
    inline = [child for token in tokens for child in token.children or []]
    assert {t.type for t in tokens} <= {
        *(f"{name}_{end}" for name in ("heading", "paragraph") for end in ("open", "close")),
        *(f"{name}_{end}" for name in ("bullet_list", "list_item") for end in ("open", "close")),
        *(
            f"{n}_{end}"
            for n in ("table", "thead", "tbody", "tr", "th", "td")
            for end in ("open", "close")
        ),
        "inline",
    }
    assert {t.type for t in inline} <= {"text", "text_special", "softbreak", "code_inline", "image"}
    (image,) = (t for t in inline if t.type == "image")
    assert image.attrs["src"] == "samples/step_%5D%28javascript%3Aalert%281%29%29%20%3Cb%3E.png"
    assert [t.content for t in tokens if t.type == "inline"][1] == plain_markdown(evil)
    assert [t.content for t in tokens if t.type == "inline" and t.content == "Limits"]


@pytest.mark.slow
def test_help_does_not_wait_for_the_hub():
    code = "import sys; from unclip.cli import main\n"
    code += "try: main(['--help'])\nexcept SystemExit: pass\n"
    code += "import unclip.sharing.card\nassert 'huggingface_hub' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
