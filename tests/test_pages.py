"""What a user is sent to exists where the user is."""

import ast
import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]


def texts(path):
    """The strings of a module that are no docstrings: messages and help."""
    tree = ast.parse(path.read_text())
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, holders) and node.body and isinstance(node.body[0], ast.Expr)
    }
    strings = (node for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return [n.value for n in strings if isinstance(n.value, str) and id(n) not in docs]


def test_no_message_sends_to_what_a_wheel_does_not_hold():
    """A user who installed the wheel has neither docs/ nor the Makefile."""
    found = [
        (path.name, text)
        for path in sorted((ROOT / "src").rglob("*.py"))
        for text in texts(path)
        if re.search(r"docs/\w+\.md|`make ", text)
    ]
    assert not found


def test_the_readme_lists_every_page_and_a_page_every_experiment():
    readme = (ROOT / "README.md").read_text()
    for page in (*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "tutorials").glob("*.md")):
        assert f"({page.relative_to(ROOT).as_posix()})" in readme, page.name
    table = (ROOT / "docs" / "experiments.md").read_text().split("## What is there")[1]
    rows = [line for line in table.split("\n## ")[0].splitlines() if line.startswith("| `")]
    listed = " ".join(rows)
    for path in (ROOT / "experiments").glob("*/*.yaml"):
        if path.parent.name not in ("recipes", "sweeps", "reproduction"):
            assert re.search(rf"[ ,]{path.stem}[ ,|]", listed), path.name


@pytest.mark.parametrize("page", ["data.md", "data_tools.md"])
def test_no_page_writes_two_things_into_one_folder(page):
    text = (ROOT / "docs" / page).read_text()
    for block in re.findall(r"```\n(.*?)```", text, re.S):
        folders = re.findall(r"--out (\S+)", block)
        assert len(set(folders)) == len(folders)


def test_the_readme_says_how_to_install_without_make():
    readme = (ROOT / "README.md").read_text()
    offered = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = re.findall(r"pip install '?\.(?:\[([\w,]+)\])?", readme)
    assert "" in found
    assert {extra for each in found for extra in each.split(",") if extra} <= {
        *offered["optional-dependencies"]
    }


def test_every_file_that_an_experiment_reads_is_explained():
    """No data comes with unclip but the scenes."""
    text = (ROOT / "docs" / "data.md").read_text()
    for path in (ROOT / "experiments").glob("*/*.yaml"):
        data = yaml.safe_load(path.read_text()).get("data")
        source = data.get("source") if isinstance(data, dict) else None
        if isinstance(source, str) and source != "scenes":
            assert f"`{source}`" in text, path.name


def test_a_page_plans_with_the_clip_that_it_trains_with():
    for block in re.findall(r"```\n(.*?)```", (ROOT / "docs" / "data.md").read_text(), re.S):
        if "--clip open_clip:" in block:
            for line in block.replace("\\\n", " ").splitlines():
                if re.match(r"unclip (train|plan) (prior|decoder)", line):
                    assert "clip=open_clip:" in line, line
