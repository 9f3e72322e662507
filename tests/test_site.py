"""The site: its reference says all that the code has, and its pages are built without a warning."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest

from unclip import cli
from unclip.common import yaml_text
from unclip.stages import registry
from unclip.stages.decoder.config import DecoderExperiment

ROOT = Path(__file__).parents[1]
SITE = ROOT / "docs" / "site"


def module(name):
    spec = importlib.util.spec_from_file_location(f"site_{name}", SITE / f"{name}.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.fixture(scope="module")
def reference():
    return module("reference")


def test_every_field_is_listed_with_its_type_default_and_comment(reference):
    found = {key: rest for key, *rest in reference.fields_of(DecoderExperiment)}
    assert found["model.clip_tokens"] == ["int", "4", "extra context tokens made from z_i"]
    assert found["embedding"][:2] == ["image | text", "'image'"]
    assert found["trainer.threads"][:2] == ["int | null", "null"]
    assert "data.source" in found
    text = reference.experiments()
    for name, row in registry.STAGES.items():
        section = text.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        for key in leaves(row.experiment):
            assert f"| `{key}` |" in section, f"{name}: {key}"


def leaves(cls, before=""):
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from leaves(hints[field.name], f"{before}{field.name}.")
        else:
            yield before + field.name


def test_most_fields_have_a_comment(reference):
    rows = [
        row for each in registry.STAGES.values() for row in reference.fields_of(each.experiment)
    ]
    assert sum(bool(note) for *_, note in rows) > 0.7 * len(rows)
    assert not any("type: ignore" in note for *_, note in rows)


def test_every_command_is_in_the_reference(reference):
    text = reference.command_line()
    titles = re.findall(r"^#+ unclip (.*)$", text, re.M)
    assert len(titles) == len(set(titles))
    assert len([title for title in titles if " " not in title]) == len(cli.COMMANDS)
    assert {"runs compare", "study new", "evaluate images", "evaluate guidance"} <= set(titles)


def test_every_file_of_experiments_is_in_the_reference(reference):
    text = reference.shipped()
    for path in (ROOT / "experiments").glob("*/*.yaml"):
        name = path.relative_to(ROOT / "experiments").with_suffix("").as_posix()
        short = {"recipes": f"unclip recipe {path.stem}", "sweeps": f"unclip sweep {path.stem}"}
        shown = short.get(path.parent.name, name)
        assert path.stem == "claims" or f"| `{shown}" in text, name
    claims = yaml_text.read_file(ROOT / "experiments" / "reproduction" / "claims.yaml")
    assert all(f"| `{name}` |" in text for name in claims)


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_asks_no_other_host(tmp_path):
    out = tmp_path / "docs"
    done = subprocess.run(
        [sys.executable, str(SITE / "build.py"), str(out)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    pages = list(out.rglob("*.html"))
    assert {"index.html", "start.html", "search.html", "genindex.html"} <= {p.name for p in pages}
    asked = r"<(?:script|img|link|iframe|source)\b[^>]*\b(?:src|href)=[\"'](?:https?:)?//"
    for page in [*pages, *out.rglob("*.css")]:
        text = page.read_text(encoding="utf-8")
        assert not re.search(asked, text), page
        assert not re.search(r"url\([\"']?(?:https?:)?//|@import", text), page
