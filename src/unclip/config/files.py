"""Finds experiment files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import unclip
from unclip.common.checks import closest, nearest
from unclip.common.errors import UserError
from unclip.common.home import expanded
from unclip.stages.row import KINDS


def shipped_experiments() -> Path:
    """The experiments that come with the package (or with the checkout, when run from one)."""
    package = Path(unclip.__file__).parent
    inside = package / "experiments"
    return inside if inside.is_dir() else package.parent.parent / "experiments"


def experiment_roots() -> list[Path]:
    """The folders in which experiments are looked for, first match wins."""
    seen: dict[Path, Path] = {}
    for path in (Path("experiments"), *_named(), shipped_experiments()):
        if path.is_dir():
            seen.setdefault(path.resolve(), path)
    return list(seen.values())


def missing_roots() -> list[Path]:
    """What ``$UNCLIP_EXPERIMENTS`` names and is not a folder."""
    return [path for path in _named() if not path.is_dir()]


def _named() -> list[Path]:
    value = os.environ.get("UNCLIP_EXPERIMENTS", "")
    return [expanded(path) for path in value.split(os.pathsep) if path]


def yaml_files(folder: str) -> dict[str, list[Path]]:
    """The YAML files in ``folder`` (``prior``, ``recipes``) of every root, by ``folder/name``.

    The first file of a name is the one that counts; it hides the others.
    """
    found: dict[str, list[Path]] = {}
    for root in experiment_roots():
        for path in sorted((root / folder).glob("*.yaml")):
            if path.is_file():
                found.setdefault(f"{folder}/{path.stem}", []).append(path)
    return found


def experiment_files() -> Iterator[tuple[str, Path]]:
    """(name, file) of every experiment that can be found, as ``prior/diffusion_l``."""
    for kind in KINDS:
        for name, paths in yaml_files(kind).items():
            yield name, paths[0]


def _hint(name: str, names: list[str], otherwise: str) -> str:
    """The name that is meant: within its folder, if that is one, by what follows the slash."""
    folder, slash, stem = name.partition("/")
    stems = [known.split("/")[1] for known in names if known.startswith(f"{folder}/")]
    if slash and stems:
        close = closest(stem, stems)
        return f"; did you mean {folder + '/' + close!r}?" if close else otherwise
    return nearest(name, names, otherwise)


def find_experiment(name: str) -> Path:
    """The file of an experiment given by path or as ``kind/name``."""
    if name.endswith((".yaml", ".yml")):
        if Path(name).is_file():
            return Path(name)
        raise UserError(f"{name}: no such experiment file")
    folder = name.split("/")[0]
    for root in experiment_roots():
        path = root / f"{name}.yaml"
        if folder in (*KINDS, "recipes") and path.is_file():
            return path
    recipe = folder == "recipes"
    names = list(yaml_files(folder)) if recipe else [n for n, _ in experiment_files()]
    verb = "recipe --list" if recipe else "experiments list"
    same = " or ".join(repr(n) for n in names if n.split("/")[1] == name)
    hint = f"; did you mean {same}?" if same else _hint(name, names, f"; see `unclip {verb}`")
    looked = ", ".join(str(r) for r in experiment_roots())
    raise UserError(f"{name}: no such experiment in {looked}{hint}")
