"""Writes the file of an experiment that differs from another one in a few fields."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

from unclip.common import yaml_text
from unclip.common.atomic import atomic_write
from unclip.common.errors import UserError
from unclip.common.fields import leaves
from unclip.config.files import experiment_roots, yaml_files
from unclip.config.load import FILE, OVERRIDE, ResolvedExperiment, load_experiment
from unclip.config.text import annotated
from unclip.runs.parents import count_parameters


class Written(NamedTuple):
    """A new experiment."""

    path: Path
    command: str  # that trains it


def write(name: str, parent: str, overrides: list[str], root: Path, *, force: bool) -> Written:
    """``root/KIND/NAME.yaml``: ``parent`` with ``overrides``, valid as it is.

    ``name`` is ``prior/mine`` or ``mine``; the kind is the parent's. ``force`` lets it replace a
    file and hide an experiment of the same name.

    Raises:
        UserError: the name or an override will not do, or the network cannot be built. Nothing
            is written then.
    """
    source, child = load_experiment(parent), load_experiment(parent, overrides)
    stem = _stem(name, child.stage.kind)
    path = root / child.stage.kind / f"{stem}.yaml"
    _refuse_name(path, source, force)
    count = count_parameters(child)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        findable = root.resolve() in [r.resolve() for r in experiment_roots()]
        given = f"{child.stage.kind}/{stem}" if findable else shlex.quote(str(path))
        written = Written(path, f"unclip {child.stage.verb} {given}")
        with atomic_write(path) as scratch:
            text = _text(written, parent, source, child, count)
            scratch.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None
    return written


def _stem(name: str, kind: str) -> str:
    parts = re.fullmatch(r"(?:(\w+)/)?(\w[\w-]*)", name, re.ASCII)
    if not parts:
        raise UserError(f"{name!r}: a name is of letters, digits, - and _, as {kind}/mine")
    if parts[1] not in (None, kind):
        raise UserError(f"{name}: its parent is of the kind {kind}; call it {kind}/{parts[2]}")
    return parts[2]


def _refuse_name(path: Path, source: ResolvedExperiment, force: bool) -> None:
    """A name of a file that the parent consists of would make `extends` a cycle."""
    name = f"{path.parent.name}/{path.stem}"
    if path.stem in [file.stem for file in source.files]:
        raise UserError(f"{name}: is part of its own parent {source.name}; take another name")
    if force:
        return
    if path.exists():
        raise UserError(f"{path}: exists; take another name, or --force to replace it")
    for other in yaml_files(path.parent.name).get(name, []):
        raise UserError(f"{name}: is the name of {other}; take another, or --force to hide that")


def _text(
    written: Written, parent: str, source: ResolvedExperiment, child: ResolvedExperiment, count: int
) -> str:
    before, after = (dict(leaves(r.as_dict())) for r in (source, child))
    changed = {k: after[k] for k, origin in child.origins.items() if origin == OVERRIDE}
    remarks = {k: f"{source.name} has {yaml_text.in_line(v)}" for k, v in before.items()}
    about = changed.pop("about", None)
    if about is None:
        changes = ", ".join(f"{k}={yaml_text.in_line(v)}" for k, v in changed.items())
        about = f"{source.name} with {changes or 'nothing changed yet'}"
    extends = parent
    if parent.endswith(FILE):
        extends = Path(os.path.relpath(parent, written.path.parent)).as_posix()
    return "\n".join(
        [
            f"# {written.command}",
            *([f"# parameters: {count:,}"] if count else []),
            "# hardware: not measured; time: not measured",
            "# expect: not measured",
            *annotated({"extends": extends, "about": about}, lambda key: None),
            *annotated(_nested(changed), remarks.get),
            "",
        ]
    )


def _nested(values: dict[str, Any]) -> dict[str, Any]:
    """Dotted keys as mappings in mappings."""
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *sections, last = key.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[last] = value
    return tree
