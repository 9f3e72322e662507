"""The reference: pages that are made of the code itself, so that they cannot go stale."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import importlib
import inspect
import pkgutil
import re
import textwrap
import tokenize
import typing
from collections.abc import Iterable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

from unclip.cli import parser
from unclip.common import yaml_text
from unclip.config.files import shipped_experiments
from unclip.config.listing import listing
from unclip.stages import registry
from unclip.stages.row import KINDS

PACKAGES = {  # of the API, and what they are for
    "unclip": "The front door: `from unclip import Pipeline, load_experiment, train`.",
    "unclip.pipeline": "A trained cascade: images from captions, and what their latents are for.",
    "unclip.diffusion": "Processes, losses, guidance and samplers, on tensors.",
    "unclip.embeddings": "The frozen CLIP, the PCA codec and the geometry of embeddings.",
    "unclip.nn": "Building blocks of the networks.",
    "unclip.degradations": "What an upsampler learns to undo.",
    "unclip.evaluation.metrics": "Measures of sets of images.",
    "data_modules": "The LightningDataModules.",
}
FRONT = (
    "unclip.sharing.front_door",
    "unclip.config.load",
    "unclip.runs.train",
    "unclip.runs.sample_captions",
)


def write(folder: Path) -> list[str]:
    """Write all pages; returns their names from the folder above, in the order of reading."""
    folder.mkdir(parents=True)
    pages = {"cli": command_line(), "config": experiments(), "shipped": shipped()}
    for package, about in PACKAGES.items():
        pages[package] = api(package, about)
    for name, text in pages.items():
        (folder / f"{name}.md").write_text(text, encoding="utf-8")
    return [f"{folder.name}/{name}.md" for name in pages]


def command_line() -> str:
    """Every command with its options, from the parsers."""
    text = "# Command line\n\nWhat `--help` says of every command.\n"
    for words, each in _parsers(parser()):
        if words:
            level = "#" * (1 + len(words))
            text += f"\n{level} unclip {' '.join(words)}\n\n```\n{each.format_help()}```\n"
    return text


def _parsers(
    top: argparse.ArgumentParser, words: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    yield words, top
    for action in top._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield from _parsers(below, (*words, name))
    for name, below in getattr(top, "verbs", {}).items():
        yield from _parsers(below, (*words, name))


def experiments() -> str:
    """Every field of every stage's experiment, from the dataclasses and their comments."""
    text = "# Fields of experiments\n\n"
    text += "What a YAML file, or `key=value` on the command line, may set, with the defaults.\n"
    for name, row in registry.STAGES.items():
        text += f"\n## {name}\n\n{row.about[:1].upper()}{row.about[1:]}.\n"
        text += "\n| field | type | default | |\n|---|---|---|---|\n"
        for key, kind, default, note in fields_of(row.experiment):
            cells = (f"`{key}`", f"`{kind}`", f"`{default}`" if default else "", note)
            text += _row(cells)
    return text


def shipped() -> str:
    """Every file of `experiments/` by its kind, with what its opening comment says."""
    text = "# Shipped experiments\n\n"
    text += "What comes with unclip. `unclip experiments show NAME` prints all fields of one.\n"
    folder = shipped_experiments()
    for kind in (*KINDS, "cascades"):
        text += f"\n## {kind}\n\n| name | parameters | hardware | time | |\n|---|---|---|---|---|\n"
        for entry in listing().entries:
            if entry.shipped and entry.name.startswith(f"{kind}/"):
                count = f"{entry.parameters:,}" if entry.parameters else ""
                cells = (f"`{entry.name}`", count, entry.hardware, entry.time, entry.about)
                text += _row(cells)
    for kind, command in (("recipes", "recipe"), ("sweeps", "sweep"), ("reproduction", "")):
        text += f"\n## {kind}\n\n| file | |\n|---|---|\n"
        for path in sorted((folder / kind).glob("*.yaml")):
            if path.stem == "claims":  # a table of its own
                continue
            content = yaml_text.read_file(path)
            about = content.get("about") or content.get("description") or ""
            name = f"unclip {command} {path.stem}" if command else f"{kind}/{path.name}"
            text += _row((f"`{name}`", str(about)))
    text += "\n## Claims of the paper\n\n`unclip reproduce-paper --only NAME` tests one.\n"
    text += "\n| name | where | claim |\n|---|---|---|\n"
    for name, claim in yaml_text.read_file(folder / "reproduction" / "claims.yaml").items():
        text += _row((f"`{name}`", claim["source"], claim["says"]))
    return text


def _row(cells: Iterable[str | None]) -> str:
    """A row of a table; outside code `<name>` is text, not a tag."""
    texts = (re.sub(r"(`[^`]*`)|<", lambda m: m[1] or "\\<", cell or "") for cell in cells)
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |\n"


def fields_of(cls: type, before: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Dotted key, type, default and comment of every field of a config class."""
    notes = _comments(cls)
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        kind, key = hints[field.name], before + field.name
        if dataclasses.is_dataclass(kind):
            yield from fields_of(kind, f"{key}.")
            continue
        missing = dataclasses.MISSING
        value = field.default if field.default_factory is missing else field.default_factory()
        shown = "" if value is missing else "null" if value is None else repr(value)
        yield key, _kind(kind), shown, notes.get(field.name, "")


def _kind(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return " | ".join(map(str, typing.get_args(hint)))
    arguments = typing.get_args(hint)
    if arguments and not isinstance(hint, typing._GenericAlias) and "|" in str(hint):
        return " | ".join(_kind(each) for each in arguments)
    if hint is type(None):
        return "null"
    return (
        hint.__name__
        if isinstance(hint, type) and not arguments
        else re.sub(r"\w+\.", "", str(hint))
    )


def _comments(cls: type) -> dict[str, str]:
    """The comment at the end of each field's line, of the class and those it extends."""
    found: dict[str, str] = {}
    for each in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(each):
            continue
        source = textwrap.dedent(inspect.getsource(each))
        lines = {
            token.start[0]: token.string.lstrip("# ")
            for token in tokenize.generate_tokens(StringIO(source).readline)
            if token.type == tokenize.COMMENT
        }
        for node in ast.parse(source).body[0].body:  # type: ignore[attr-defined]
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                span = range(node.lineno, (node.end_lineno or node.lineno) + 1)
                said = " ".join(lines[line] for line in span if line in lines)
                if said.startswith("type: ignore"):
                    said = said.partition("# ")[2].lstrip("# ")
                if said:
                    found[node.target.id] = said
    return found


def api(package: str, about: str) -> str:
    """The modules of a package, with what autodoc finds in their docstrings."""
    text = f"# {package}\n\n{about}\n"
    for name in FRONT if package == "unclip" else _modules(package):
        members = ""
        if package == "unclip":
            members = f":members: {', '.join(_front(name))}\n"
        title = name.removeprefix(f"{package}.")
        text += f"\n## {title}\n\n```{{eval-rst}}\n.. automodule:: {name}\n"
        text += textwrap.indent(members, "   ") + "```\n"
    return text


def _front(module: str) -> list[str]:
    import unclip

    return [name for name in unclip.__all__ if getattr(unclip, name).__module__ == module]


def _modules(package: str) -> list[str]:
    path = importlib.import_module(package).__path__
    return [info.name for info in pkgutil.iter_modules(path, f"{package}.") if not info.ispkg]
