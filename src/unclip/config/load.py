"""Loads, merges and validates experiment files.

An experiment is a YAML file, the files it ``extends:`` (a chain, nearest last), and ``key=value``
overrides. Every field is declared by a dataclass beside its owner; OmegaConf checks the types.
The files are untrusted: no tags, no interpolation, no import paths.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from unclip.common import yaml_text
from unclip.common.checks import as_choice, choices_of, nearest
from unclip.common.errors import UserError
from unclip.common.gone import gone_from
from unclip.config.files import find_experiment
from unclip.stages import registry
from unclip.stages.row import Row

OVERRIDE = "command line"
FILE = (".yaml", ".yml")  # how a name ends that is a path


@dataclass(frozen=True)
class ResolvedExperiment:
    """An experiment, whole: its name, its typed config and where every value came from."""

    name: str  # kind/name
    stage: Row
    config: Any  # the stage's Experiment subclass
    origins: dict[str, str]  # dotted key -> the file (or `command line`) that set it
    files: list[Path]  # the file and those it extends, nearest first

    def as_dict(self) -> dict[str, Any]:
        """Plain nested values, every field present."""
        return dataclasses.asdict(self.config)


def load_experiment(name: str, overrides: list[str] | None = None) -> ResolvedExperiment:
    """Resolve experiment ``name`` (``kind/name`` or a path) with dotlist ``overrides``.

    Raises `UserError` naming the file, the key and the fix for anything that is wrong.
    """
    chain = _chain(name)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for path in reversed(chain):
        content = {k: v for k, v in read_yaml(path).items() if k not in ("extends", "about")}
        for key, value in leaves(content):
            values[key], origins[key] = value, str(path)
    about = read_yaml(chain[0]).get("about", "")
    values["about"], origins["about"] = str(about), str(chain[0])
    for item in overrides or []:
        key, value = parse_override(item)
        values[key], origins[key] = value, OVERRIDE
    entry = registry.stage(str(values.get("stage", "")), str(chain[0]))
    config = _build(entry.experiment, values, origins)
    kind_name = f"{entry.kind}/{chain[0].stem}"
    return ResolvedExperiment(kind_name, entry, config, origins, chain)


def build_config(cls: type, values: dict[str, Any], overrides: list[str]) -> Any:
    """The dataclass ``cls`` of dotted ``values`` and ``overrides``, held to an experiment's rules.

    For the settings of a command that has no experiment file.
    """
    values = values | dict(map(parse_override, overrides))
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
    contents = [read_yaml(p) for p in chain]
    stage = next((content["stage"] for content in contents if "stage" in content), "")
    parent = contents[0].get("extends")
    if parent and "/" not in parent and not parent.endswith(FILE):
        parent = f"{path.parent.name}/{parent}"
    name = registry.stage(str(stage), str(path)).name
    return Head(name, str(contents[0].get("about", "")), parent)


def parse_override(item: str) -> tuple[str, Any]:
    """``model.width=512`` as (key, value), the value read as YAML; ``None`` means null."""
    key, sep, text = item.partition("=")
    if not sep or not key:
        raise UserError(f"{item!r}: an override must look like key=value, as model.width=512")
    if text == "None":
        return key, None
    try:
        return key, yaml_text.read(text)
    except YAMLError as error:
        raise UserError(
            f"{item!r}: the value is not valid YAML ({yaml_text.problem(error)})"
        ) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, safely; `UserError` names the file and line otherwise."""
    try:
        content = yaml_text.read(path.read_text(encoding="utf-8"))
    except YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {yaml_text.problem(error)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: an experiment file must be a mapping of keys to values")
    return content


def _chain(name: str) -> list[Path]:
    """The experiment's file, then what it extends, and so on; cycles refused."""
    chain = [find_experiment(name)]
    while "extends" in (content := read_yaml(chain[-1])):
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
        return find_experiment(parent if "/" in parent else f"{child.parent.name}/{parent}")
    except UserError as error:
        raise UserError(f"{child}: extends: {error}") from None


def leaves(content: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested mappings as dotted keys; lists are leaves (a child's list replaces its parent's)."""
    found: list[tuple[str, Any]] = []
    for key, value in content.items():
        if isinstance(value, dict):
            found += leaves(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", value))
    return found


def _build(cls: type, values: dict[str, Any], origins: dict[str, str]) -> Any:
    node = OmegaConf.structured(cls)
    for key, value in values.items():
        if _is_gone(cls, key, origins[key]):
            continue
        choices = choices_of(_check_key(node, cls, key, origins[key]))
        if choices:
            value = as_choice(f"{origins[key]}: {key}={value!r}", value, choices)
        else:
            _check_value(key, value, origins[key], OmegaConf.select(node, key))
        try:
            OmegaConf.update(node, key, value, merge=False)
        except OmegaConfBaseException as error:
            reason = str(error).split("\n")[0]
            raise UserError(f"{origins[key]}: {key}={value!r}: {reason}") from None
    config = OmegaConf.to_object(node)
    _validate(config, origins)
    return config


def _check_key(node: Any, cls: Any, key: str, where: str) -> Any:
    """The type of ``key``, by a walk along its dataclasses; names the nearest to an unknown part.

    An entry of a section whose names are the user's (`data.mixture`) is made in ``node``.
    """
    parts = key.split(".")
    for depth, part in enumerate(parts):
        if typing.get_origin(cls) is dict:
            cls = typing.get_args(cls)[1]
            OmegaConf.select(node, ".".join(parts[:depth])).setdefault(part, cls())
        else:
            fields = {f.name: f for f in dataclasses.fields(cls)}
            if part not in fields:
                path = ".".join(parts[: depth + 1])
                raise UserError(f"{where}: {path}: unknown key{nearest(part, fields)}")
            cls = _section(cls, part)
        last = depth == len(parts) - 1
        if (dataclasses.is_dataclass(cls) or typing.get_origin(cls) is dict) == last:
            what = "is a section, give it keys" if last else f"has no keys below it ({key})"
            raise UserError(f"{where}: {'.'.join(parts[: depth + 1])}: {what}")
    return cls


def _is_gone(cls: Any, key: str, where: str) -> bool:
    """Whether ``key`` was a field in earlier versions; said once for a file, refused when typed."""
    parts = key.split(".")
    for depth, part in enumerate(parts):
        if part in (former := gone_from(cls)):
            name = ".".join(parts[: depth + 1])
            if where == OVERRIDE:
                raise UserError(f"{where}: {name}: no longer a field: {former[part]}")
            _note_once(f"{where}: {name}: no longer a field ({former[part]}); passed over")
            return True
        if not dataclasses.is_dataclass(cls) or part not in cls.__dataclass_fields__:
            return False
        cls = _section(cls, part)  # type: ignore[arg-type]
    return False


@functools.cache
def _note_once(line: str) -> None:
    print(f"unclip: note: {line}", file=sys.stderr)


def _section(cls: type, name: str) -> Any:
    return typing.get_type_hints(cls)[name]


def _check_value(key: str, value: Any, where: str, default: Any) -> None:
    """What OmegaConf would let pass: interpolation, numbers for booleans, booleans for numbers."""
    items = value if isinstance(value, list) else [value]
    if any(isinstance(v, str) and "${" in v for v in items):
        raise UserError(f"{where}: {key}: interpolation (${{...}}) is not allowed")
    if isinstance(default, bool) != isinstance(value, bool) and default is not None:
        kind = "true or false" if isinstance(default, bool) else type(default).__name__
        raise UserError(f"{where}: {key}={value!r}: must be {kind}")


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
