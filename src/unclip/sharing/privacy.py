"""Takes out of a run's records what tells of the machine and its user."""

from __future__ import annotations

import getpass
import platform
import re
import shlex
from typing import Any

_STARTS = re.compile(r"~|[/\\]|\.\.[/\\]|[A-Za-z]:[/\\]|file:")
_PATH = re.compile(
    r"file:/+[^\s'\",;?|]*"
    r"|(?<![\w.:/\\~-])(?:~[\w.-]*|[A-Za-z]:|(?:\.\.[/\\])*\.\.)?[/\\][^\s'\"=,;?|]+"
)
_LOGIN = re.compile(r"(\w://)[^/@\s]+@")
_QUERY = re.compile(r"(\w+://[^\s?]+)\?\S*")


def public(text: str) -> str:
    """``text`` with paths outside the working folder cut to their last part.

    URLs stay, without logins and queries, which may hold keys.
    """
    text = _QUERY.sub(r"\1", _LOGIN.sub(r"\1", text))
    key, equals, value = text.partition("=")
    if _STARTS.match(text):
        head, mark, rest = text.partition("?")  # COCO's FILE?images=FOLDER
        return _last(head) + (mark + public(rest) if mark else "")
    if equals and re.fullmatch(r"[\w.-]+", key) and _STARTS.match(value):
        return f"{key}={public(value)}"
    return _PATH.sub(lambda found: _last(found[0]), text)


def public_tree(value: Any, *, names: bool = False) -> Any:
    """Plain nested values made `public`; with ``names``, those of user and machine are replaced."""
    if isinstance(value, dict):
        return {key: public_tree(entry, names=names) for key, entry in value.items()}
    if isinstance(value, list):
        return [public_tree(entry, names=names) for entry in value]
    if not isinstance(value, str):
        return value
    return _nameless(public(value)) if names else public(value)


def public_command(command: str) -> str:
    """A command line, word by word, so that paths with spaces are seen whole."""
    try:
        words = shlex.split(command)
    except ValueError:
        words = command.split()
    return shlex.join(_word(word) for word in words)


def _word(word: str) -> str:
    """A key stays as it is, whatever the user is called."""
    found = re.fullmatch(r"([\w.-]+=)(.*)", public(word), re.DOTALL)
    return found[1] + _nameless(found[2]) if found else _nameless(public(word))


def _last(path: str) -> str:
    """The last part of a path, without the name of the user whose home it may be."""
    parts = [part for part in re.split(r"[/\\]+", path) if part not in ("", "~", "..", "file:")]
    return _nameless(parts[-1]).lstrip("~") if parts else "."


def _nameless(text: str) -> str:
    host = platform.node()
    for name, stand_in in ((host, "host"), (host.split(".")[0], "host"), (_user(), "user")):
        if len(name) > 1:
            whole = rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])"
            text = re.sub(whole, stand_in, text)
    return text


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return ""
