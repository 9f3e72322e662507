"""YAML that says what it means, within bounds, and what is written reads back.

No key twice, 1e-4 is a number, and so is 10 alone: 010 and 12:30, which YAML 1.1 takes for 8 and
750, are texts. Aliases and tags, which can make much of little, are refused.
"""

from __future__ import annotations

import copy
import functools
import re
from pathlib import Path
from typing import Any

import yaml

from unclip.common import bounded
from unclip.common.errors import UserError

# libyaml reads ten times as fast, where PyYAML was built with it: a listing reads every file.
_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"
_STARTS = list("-+.0123456789")
_INTEGER = re.compile(r"^[-+]?(0|[1-9][0-9_]*)$")
# YAML 1.1 wants a dot in a float; people write 1e-4.
_WITHOUT_DOT = re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$")


class _Loader(_SafeLoader):
    """Safe YAML that refuses duplicate keys and reads decimal numbers only."""

    yaml_implicit_resolvers = {
        first: [(tag, how) for tag, how in resolvers if tag.removeprefix(_TAG) in ("bool", "null")]
        for first, resolvers in _SafeLoader.yaml_implicit_resolvers.items()
    }


def _no_duplicates(loader: _Loader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    seen = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)  # type: ignore[no-untyped-call]
        if not isinstance(key, str):
            raise yaml.YAMLError(f"key {key!r} is not a word")
        if key in seen:
            raise yaml.YAMLError(f"key {key!r} is given twice")
        seen.add(key)
    return _SafeLoader.construct_mapping(loader, node, deep)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _no_duplicates)
_Loader.add_implicit_resolver(f"{_TAG}int", _INTEGER, list("-+0123456789"))
_Loader.add_implicit_resolver(
    f"{_TAG}float",
    re.compile(r"^[-+]?([0-9]+\.[0-9]*|\.[0-9]+)$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"),
    _STARTS,
)


class _Dumper(yaml.SafeDumper):
    """Quotes what any reader would read as something else than a string, and keeps to one line."""

    def represent_str(self, text: str) -> yaml.ScalarNode:
        style = None if text.isprintable() else '"'
        return self.represent_scalar(f"{_TAG}str", text, style)


_Dumper.add_representer(str, _Dumper.represent_str)
for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver(f"{_TAG}float", _WITHOUT_DOT, _STARTS)


def read(text: str) -> Any:
    """What ``text`` says.

    Raises:
        ValueError: it is no such YAML, or too much; one line that says what and, if known, where.
    """
    bounded.limit(len(text) <= bounded.BYTES, f"has more than {bounded.BYTES:,} characters")
    return copy.deepcopy(_parsed(text))


@functools.lru_cache(maxsize=256)  # an experiment's parents are read again and again
def _parsed(text: str) -> Any:
    try:
        _check_events(text)
        value = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"not valid YAML: {_problem(error)}") from None
    bounded.check(value)
    return value


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a file; ValueError as `read`, OSError if it cannot be read."""
    try:
        with path.open(encoding="utf-8") as file:
            content = read(file.read(bounded.BYTES + 1))
    except UnicodeDecodeError:
        raise ValueError("cannot be read: not UTF-8") from None
    bounded.limit(isinstance(content, dict), "must be a mapping of keys to values")
    return content


def read_file(path: Path) -> dict[str, Any]:
    """The mapping in a file; `UserError` names the file and what is wrong otherwise."""
    try:
        return read_mapping(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def in_line(value: object) -> str:
    """A field's value in one line of YAML, which reads back as itself."""
    text = yaml.dump(
        value, Dumper=_Dumper, default_flow_style=True, allow_unicode=True, width=float("inf")
    )
    return text.removesuffix("...\n").removesuffix("\n")


def document(values: dict[str, Any]) -> str:
    """Fields in their order, a line each, which read back as themselves."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, width=float("inf"))


def _check_events(text: str) -> None:
    """Refuse what would be too deep or too large a tree, before there is one."""
    depth = 0
    events: Any = yaml.parse(text, _SafeLoader)
    for count, event in enumerate(events):
        where = f"line {event.start_mark.line + 1}: "
        is_alias = isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None)
        bounded.limit(not is_alias, f"{where}has an alias (& or *); write the values out")
        tag = getattr(event, "tag", None)
        bounded.limit(not tag, f"{where}has the tag {tag!r}; leave it out, and quote texts")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        bounded.limit(depth <= bounded.DEPTH, f"{where}is nested deeper than {bounded.DEPTH}")
        bounded.limit(count <= bounded.VALUES, f"holds more than {bounded.VALUES:,} values")
        if isinstance(event, yaml.ScalarEvent) and event.implicit[0]:
            is_long = len(event.value) > bounded.DIGITS and _INTEGER.match(event.value)
            bounded.limit(not is_long, f"{where}has an integer of {len(event.value):,} digits")


def _problem(error: yaml.YAMLError) -> str:
    """What is wrong, in one line, with its place if it has one."""
    mark = getattr(error, "problem_mark", None)
    line = f"line {mark.line + 1}: " if mark else ""
    return line + (getattr(error, "problem", None) or str(error).split("\n")[0])
