"""Loads, merges and validates experiment files.

An experiment is a YAML file, the files it ``extends:`` (a chain, nearest last), and ``key=value``
overrides. Every field is declared by a dataclass beside its owner, which says its type.
The files are untrusted: no tags, no interpolation, no import paths.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unclip.common import yaml_text
from unclip.common.checks import hints_of
from unclip.common.errors import UserError
from unclip.common.fields import leaves, set_fields
from unclip.common.home import at_home
from unclip.common.removed import removed_fields
from unclip.common.terminal import say
from unclip.config.files import find_experiment
from unclip.stages import registry
from unclip.stages.row import Row

OVERRIDE = "command line"
_NAMED = {  # what is no null where it is empty, as of a variable of the shell that is not set
    "run.dir": "must name a folder",
    "run.root": "must name a folder",
    "data.embeddings": "must name a folder, or be null",
    "init": "must name weights, or be null",
}
FILE = (".yaml", ".yml")  # how a name ends that is a path


@dataclass(frozen=True)
class ResolvedExperiment:
    """An experiment, whole: its name, its typed config and where every value came from."""

    name: str  # kind/name
    stage: Row
    config: Any  # the stage's Experiment subclass
    origins: dict[str, str]  # dotted key -> the file (or `command line`) that set it
    files: list[Path]  # the file and those it extends, nearest first
    overrides: tuple[str, ...] = ()  # key=value, as they were typed

    def as_dict(self) -> dict[str, Any]:
        """Plain nested values, every field present."""
        return dataclasses.asdict(self.config)


def load_experiment(name: str | Path, overrides: list[str] | None = None) -> ResolvedExperiment:
    """Resolve experiment ``name`` (``kind/name`` or a path) with dotlist ``overrides``.

    Raises `UserError` naming the file, the key and the fix for anything that is wrong.
    """
    if not isinstance(name, (str, Path)):
        raise UserError(f"experiment {name!r}: must be a name, as 'prior/tiny', or a path")
    if isinstance(overrides, (str, dict)) or not all(isinstance(o, str) for o in overrides or ()):
        raise UserError(
            f"overrides: must be a list of texts, as ['trainer.seed=1'], not {overrides!r}"
        )
    chain = _chain(str(name))
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for path in reversed(chain):
        content = {
            k: v for k, v in yaml_text.read_file(path).items() if k not in ("extends", "about")
        }
        for key, value in leaves(content):
            values[key], origins[key] = value, str(path)
    about = yaml_text.read_file(chain[0]).get("about", "")
    values["about"], origins["about"] = str(about), str(chain[0])
    for key, value in parse_overrides(overrides or []).items():
        values[key], origins[key] = value, OVERRIDE
    entry = registry.stage(str(values.get("stage", "")), str(chain[0]))
    config = _build(entry.experiment, values, origins)
    kind_name = f"{entry.kind}/{chain[0].stem}"
    return ResolvedExperiment(kind_name, entry, config, origins, chain, tuple(overrides or ()))


def build_config(cls: type, values: dict[str, Any], overrides: list[str]) -> Any:
    """The dataclass ``cls`` of dotted ``values`` and ``overrides``, held to an experiment's rules.

    For the settings of a command that has no experiment file.
    """
    given = parse_overrides(overrides)
    if twice := sorted(values.keys() & given.keys()):
        raise UserError(f"{twice[0]}: given twice, once as {twice[0]}=; give it once")
    values = values | given
    return _build(cls, values, dict.fromkeys(values, OVERRIDE))


@dataclass(frozen=True)
class Head:
    """What a listing shows of an experiment."""

    stage: str
    about: str
    parent: str | None  # what it extends: kind/name, or the path that the file gives


def read_head(path: Path) -> Head:
    """Stage, purpose and parent of an experiment file; its other fields are not looked at."""
    chain = _chain(str(path))
    contents = [yaml_text.read_file(p) for p in chain]
    stage = next((content["stage"] for content in contents if "stage" in content), "")
    parent = contents[0].get("extends")
    if parent and "/" not in parent and not parent.endswith(FILE):
        parent = f"{path.parent.name}/{parent}"
    name = registry.stage(str(stage), str(path)).name
    return Head(name, str(contents[0].get("about", "")), parent)


def parse_override(item: str) -> tuple[str, str]:
    """``model.width=512`` as key and text, which the type of the field then says how to read."""
    key, sep, text = item.partition("=")
    if not sep or not key:
        name, colon, value = item.partition(":")
        meant = colon and re.fullmatch(r"\w+(\.\w+)*", name)
        hint = f"; did you mean {name}={value}?" if meant else ", as model.width=512"
        raise UserError(f"{item!r}: an override must look like key=value{hint}")
    return key, text


def parse_overrides(items: Iterable[str]) -> dict[str, str]:
    """Each of `parse_override`, by key.

    Raises:
        UserError: one is not an override, or a key is given twice.
    """
    found: dict[str, str] = {}
    for item in items:
        key, text = parse_override(item)
        if key in found:
            raise UserError(f"{key}: given twice ({key}={found[key]}, {item}); give it once")
        found[key] = text
    return found


def merge_overrides(*lists: Sequence[str]) -> list[str]:
    """The overrides of several lists, each without repeats; of a key the last list's."""
    merged: dict[str, str] = {}
    for items in lists:
        merged |= parse_overrides(items)
    return [f"{key}={text}" for key, text in merged.items()]


def _chain(name: str) -> list[Path]:
    """The experiment's file, then what it extends, and so on; cycles refused."""
    chain = [find_experiment(name)]
    while "extends" in (content := yaml_text.read_file(chain[-1])):
        parent = content["extends"]
        if not isinstance(parent, str):
            raise UserError(f"{chain[-1]}: extends: must name one experiment or file")
        path = _parent(chain[-1], parent)
        if path.resolve() in [p.resolve() for p in chain]:
            names = " -> ".join(str(p) for p in [*chain, path])
            raise UserError(f"{chain[-1]}: extends: {names} is a cycle; remove one of these")
        chain.append(path)
    return chain


def _parent(child: Path, parent: str) -> Path:
    """``extends`` names a sibling (``tiny``), another kind's (``prior/tiny``) or a path."""
    beside = child.parent / (parent if parent.endswith(FILE) else f"{parent}.yaml")
    if beside.is_file():
        return beside
    try:
        if parent.endswith(FILE) and not Path(parent).is_file():
            raise UserError(f"{beside}: no such experiment file")
        beside_kind = f"{child.resolve().parent.name}/{parent}"
        return find_experiment(parent if "/" in parent or parent.endswith(FILE) else beside_kind)
    except UserError as error:
        raise UserError(f"{child}: extends: {error}") from None


def _build(cls: type, values: dict[str, Any], origins: dict[str, str]) -> Any:
    kept = {k: at_home(v) for k, v in values.items() if not _is_removed(cls, k, origins[k])}
    for key, value in kept.items():
        items = value if isinstance(value, list) else [value]
        if key in _NAMED and value == "":
            raise UserError(f"{origins[key]}: {key}: {_NAMED[key]}")
        if any(isinstance(v, str) and "${" in v for v in items):
            raise UserError(f"{origins[key]}: {key}: interpolation (${{...}}) is not allowed")
    typed = [key for key in kept if origins[key] == OVERRIDE]
    config: Any = set_fields(cls, kept, lambda key: f"{origins[key]}: ", typed)
    _validate(config, origins)
    return config


def _is_removed(cls: Any, key: str, where: str) -> bool:
    """Whether ``key`` was a field in earlier versions; said once for a file, refused when typed."""
    parts = key.split(".")
    for depth, part in enumerate(parts):
        if part in (former := removed_fields(cls)):
            name = ".".join(parts[: depth + 1])
            if where == OVERRIDE:
                raise UserError(f"{where}: {name}: no longer a field: {former[part]}")
            _note_once(f"{where}: {name}: no longer a field ({former[part]}); ignored")
            return True
        if not dataclasses.is_dataclass(cls) or part not in cls.__dataclass_fields__:
            return False
        cls = hints_of(cls)[part]
    return False


@functools.cache
def _note_once(line: str) -> None:
    say(f"unclip: note: {line}", error=True)


def _validate(config: Any, origins: dict[str, str]) -> None:
    """Run every section's ``validate``; prefix the file that set the offending key."""
    try:
        for section in dataclasses.fields(config):
            value = getattr(config, section.name)
            if hasattr(value, "validate"):
                value.validate()
        config.validate()
    except ZeroDivisionError:
        raise UserError("a size, or a number of heads, is 0; it must be at least 1") from None
    except UserError as error:
        key = str(error).split(":")[0]
        parts = key.split(".")
        named = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
        where = next((origins[k] for k in named if k in origins), None)
        value = f"{key}={_get(config, key)!r}" if _get(config, key) is not None else key
        raise UserError(f"{where + ': ' if where else ''}{value}{str(error)[len(key) :]}") from None


def _get(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config.get(part) if isinstance(config, dict) else getattr(config, part, None)
    return config
