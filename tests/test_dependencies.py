"""Every package that the code imports is declared, and every declared one is pinned."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OWN = {"unclip", "data_modules"}


def name_of(requirement: str) -> str:
    return re.split(r"[\[<>=!~; ]", requirement)[0].lower().replace("_", "-")


DECLARED = {name_of(r) for r in PROJECT["dependencies"]}
EXTRAS = {
    name_of(requirement)
    for extra, requirements in PROJECT["optional-dependencies"].items()
    if extra not in ("dev", "docs", "test")  # a user has neither
    for requirement in requirements
}


def imported() -> dict[str, str]:
    """Top-level packages of others -> a file that imports them."""
    found: dict[str, str] = {}
    for folder in (ROOT / "src", ROOT / "data_modules"):
        for path in folder.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = []
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and node.level == 0:
                    names = [node.module or ""]
                for name in names:
                    found.setdefault(name.split(".")[0], str(path.relative_to(ROOT)))
    return {k: v for k, v in found.items() if k not in OWN | set(sys.stdlib_module_names)}


def test_every_import_is_declared():
    of = packages_distributions()
    missing = {}
    for package, file in imported().items():
        names = {name_of(n) for n in of.get(package, [package])}
        if not names & (DECLARED | EXTRAS):
            missing[package] = file
    assert missing == {}


def test_every_declared_package_is_imported():
    of = packages_distributions()
    used = {name_of(n) for package in imported() for n in of.get(package, [package])}
    assert DECLARED - used == set()


def test_every_declared_package_is_pinned():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {name_of(line) for line in lines if "==" in line}
    assert DECLARED - pinned == set()
    assert not any("://" in line for line in lines)
