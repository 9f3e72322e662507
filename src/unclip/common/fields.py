"""Values from files and command lines as the fields of dataclasses. Imports no torch.

A field is a bool, int, float, str or `Literal`, a list of one of these, one of these or None,
``int | str``, another dataclass, or a ``dict`` of dataclasses by name.
"""

from __future__ import annotations

import ast
import copy
import dataclasses
import functools
import math
import re
import typing
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any, TypeVar

from unclip.common import bounded, yaml_text
from unclip.common.checks import (
    alternatives,
    as_choice,
    choices_of,
    closest,
    hints_of,
    nearest,
    takes_none,
)
from unclip.common.errors import UserError
from unclip.common.removed import without_removed
from unclip.common.sizes import check_size

Config = TypeVar("Config")

_PLAIN_LIST = re.compile(r"""\[([^\[\]{}"'#\n]+)\]""")
_NULL = ("", "~", "null", "Null", "NULL", "None")  # None is how W&B writes it
_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "text in quotes",
    type(None): "null",
}
_MANY = {int: "whole numbers, as [1, 2]", float: "numbers, as [0.5, 1]", str: "texts, as [a, b]"}
_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")


def set_fields(
    cls: type[Config],
    values: Mapping[str, Any],
    where: Callable[[str], str],
    typed: Container[str] = (),
    section: str = "",
) -> Config:
    """The dataclass ``cls``, with its defaults where ``values`` say nothing.

    Args:
        cls: Every field of it and of its sections has a default.
        values: Dotted key -> value.
        where: How errors about a key begin: ``tiny.yaml: ``.
        typed: Keys whose values are texts from a command line.
        section: Where ``cls`` stands in an experiment: ``model.``.

    Raises:
        UserError: a key is unknown, or a value is not of its field's type or of no possible size.
    """
    tree: dict[str, Any] = {}
    for key, value in values.items():
        here, read = f"{where(key)}{section}", from_text if key in typed else as_type
        hint, setting = _type_of(cls, key, here), f"{here}{key}={value!r:.200}"
        *sections, last = key.split(".")
        node = tree
        for name in sections:
            node = node.setdefault(name, {})
        node[last] = read(hint, value, setting)
        check_size(section + key, node[last], f"{here}{key}={node[last]!r:.200}")
    return _made(cls, tree)


def as_dataclass(cls: type[Config], content: Any, where: str = "", section: str = "") -> Config:
    """Nested plain values as the dataclass ``cls``; fields that it no longer has are ignored.

    Raises:
        UserError: as `set_fields`; ``where`` begins it.
    """
    if not isinstance(content, dict):
        raise UserError(f"{where}{section.rstrip('.')}={content!r:.200}: must be a section of keys")
    values = dict(leaves(without_removed(cls, content)))
    return set_fields(cls, values, lambda key: where, section=section)


def as_type(hint: Any, value: Any, setting: str) -> Any:
    """``value``, as YAML or JSON has it, as a field of the type ``hint`` holds it.

    Raises:
        UserError: it cannot be one; ``setting`` is how it was given.
    """
    if value is None and takes_none(hint):
        return None
    if choices := choices_of(hint):
        return as_choice(setting, value, choices)
    kinds = alternatives(hint)
    for kind in kinds:
        if (found := _converted(kind, value)) is not None:
            _check_texts(found, setting)
            return found
    raise UserError(f"{setting}: must be {_expected(hint)}")


def _check_texts(value: Any, setting: str) -> None:
    for item in value if isinstance(value, list) else [value]:
        try:
            bounded.check_text(item if isinstance(item, str) else "")
            if isinstance(item, str) and "${" in item:
                raise ValueError("interpolation (${...}) is not allowed")
        except ValueError as error:
            raise UserError(f"{setting}: {error}") from None


def from_text(hint: Any, text: Any, setting: str) -> Any:
    """What was typed for a field of the type ``hint``: as it is for a str, else read as YAML.

    Raises:
        UserError: as `as_type`.
    """
    kinds = alternatives(hint)
    if takes_none(hint) and text in _NULL:
        return None
    if isinstance(text, str) and str not in kinds and not choices_of(hint):
        try:
            text = yaml_text.read(text)
        except ValueError as error:
            plain = _PLAIN_LIST.fullmatch(text) if list[str] in kinds else None
            if plain is None:
                raise UserError(f"{setting}: must be {_expected(hint)} ({error})") from None
            text = [item.strip() for item in plain[1].split(",")]  # [*.bias], no alias of YAML's
    return as_type(hint, text, setting)


def leaves(content: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested mappings as dotted keys; lists are leaves (a child's list replaces its parent's)."""
    found: list[tuple[str, Any]] = []
    for key, value in content.items():
        if isinstance(value, dict):
            found += leaves(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", value))
    return found


def keys_of(cls: Any, prefix: str = "") -> Iterator[str]:
    """The dotted keys of a dataclass and its sections, without those whose names are the user's."""
    hints = hints_of(cls)
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from keys_of(hints[field.name], f"{prefix}{field.name}.")
        elif typing.get_origin(hints[field.name]) is not dict:
            yield f"{prefix}{field.name}"


def _expected(hint: Any) -> str:
    """What a field of the type ``hint`` may be, in words."""

    def words(kind: Any) -> str:
        many = typing.get_origin(kind) is list
        return f"a list of {_MANY[typing.get_args(kind)[0]]}" if many else _WORDS[kind]

    return " or ".join(words(kind) for kind in alternatives(hint))


def _converted(kind: Any, value: Any) -> Any:
    """``value`` as ``kind``; None if it is of another type, or a number that is not finite."""
    if typing.get_origin(kind) is list:
        if not isinstance(value, (list, tuple)):
            return None
        items = [_converted(typing.get_args(kind)[0], item) for item in value]
        return None if None in items else items
    if kind in (int, float) and isinstance(value, str):
        whole, number = _INTEGER.fullmatch(value), _NUMBER.fullmatch(value)
        value = int(value) if whole else float(value) if number else None
    if kind is float and type(value) in (int, float):
        return float(value) if math.isfinite(value) else None
    return value if type(value) is kind else None


def _type_of(cls: Any, key: str, where: str) -> Any:
    """The type of the field ``key``; raises a `UserError` that names the one most like it."""
    top, parts = cls, key.split(".")
    for depth, part in enumerate(parts):
        path = ".".join(parts[: depth + 1])
        if typing.get_origin(cls) is dict:
            cls = typing.get_args(cls)[1]
        else:
            names = [field.name for field in dataclasses.fields(cls)]
            if part not in names:
                raise UserError(f"{where}{path}: unknown key{_hint(part, names, top)}")
            cls = hints_of(cls)[part]
        last = depth == len(parts) - 1
        if (dataclasses.is_dataclass(cls) or typing.get_origin(cls) is dict) == last:
            what = "is a section, give it keys" if last else f"has no keys below it ({key})"
            raise UserError(f"{where}{path}: {what}")
    return cls


def _hint(part: str, names: list[str], top: Any) -> str:
    """The nearest of ``names``, or a field of another section that is called so, or ``names``."""
    elsewhere = [key for key in keys_of(top) if key.rsplit(".", 1)[-1] == part]
    if elsewhere and closest(part, names) is None:
        return f"; did you mean {' or '.join(map(repr, elsewhere))}?"
    return nearest(part, names)


def _made(cls: Any, tree: dict[str, Any]) -> Any:
    """The dataclass ``cls`` with what ``tree`` says."""
    return copy.deepcopy(_merged(cls, repr(tree)))


@functools.lru_cache(maxsize=512)
def _merged(cls: Any, tree: str) -> Any:
    """The same, put together by OmegaConf once: it takes far longer than a copy of the result."""
    from omegaconf import OmegaConf

    return OmegaConf.to_object(OmegaConf.merge(_defaults(cls), ast.literal_eval(tree)))


@functools.cache
def _defaults(cls: Any) -> Any:
    """``cls`` as OmegaConf has it, which takes most of the time; a merge leaves it as it is."""
    from omegaconf import OmegaConf

    return OmegaConf.structured(cls)
