"""YAML that says what it means: no key twice, 1e-4 is a number, and what is written reads back."""

from __future__ import annotations

import re
from typing import Any

import yaml

# libyaml reads ten times as fast, where PyYAML was built with it: a listing reads every file.
_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_SafeLoader):
    """Safe YAML that refuses duplicate keys and reads 1e-4 as a number."""


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


class _Dumper(yaml.SafeDumper):
    """Quotes what `_Loader` would read as something else than a string, and keeps to one line."""

    def represent_str(self, text: str) -> yaml.ScalarNode:
        style = None if text.isprintable() else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _Dumper.represent_str)
# YAML 1.1 wants a dot in a float; people write 1e-4.
for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
        list("-+0123456789"),
    )


def read(text: str) -> Any:
    """What ``text`` says; `yaml.YAMLError` otherwise, of which `problem` makes a line."""
    return yaml.load(text, _Loader)


def problem(error: Exception) -> str:
    """What is wrong, in one line, with its place if it has one."""
    mark = getattr(error, "problem_mark", None)
    line = f"line {mark.line + 1}: " if mark else ""
    return line + (getattr(error, "problem", None) or str(error).split("\n")[0])


def in_line(value: object) -> str:
    """A field's value in one line of YAML, which reads back as itself."""
    text = yaml.dump(
        value, Dumper=_Dumper, default_flow_style=True, allow_unicode=True, width=float("inf")
    )
    return text.removesuffix("...\n").removesuffix("\n")


def document(values: dict[str, Any]) -> str:
    """Fields in their order, a line each, which read back as themselves."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, width=float("inf"))
