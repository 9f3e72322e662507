"""argparse as every command uses it: errors of one line, and sampler settings among the words."""

from __future__ import annotations

import argparse
import itertools
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unclip.common.checks import closest, nearest
from unclip.common.errors import UserError
from unclip.common.home import at_home
from unclip.common.seeds import require_seed

STAGES = ("prior", "decoder", "upsampler")
LOOKS_LIKE_SETTING = re.compile(rf"(({'|'.join(STAGES)})\.\w+=.*|[A-Za-z][\w.-]*=\S*)", re.DOTALL)
FORMER = re.compile(rf"--({'|'.join(STAGES)})-([\w-]+)")
"""Options of earlier versions: ``--decoder-steps 16`` is ``decoder.steps=16`` today."""
SETTINGS = (
    *("steps", "sampler", "guidance", "eta", "clip", "clip-range", "candidates", "noise-level"),
    *("temperature", "top-k", "top-p", "dot-percentile"),
)


WIDTH = 78  # of the text that opens a help
_NO_COMMAND = re.compile(r"argument (COMMAND|VERB): invalid choice: '(.*)' \(choose from (.*)\)")
_PLACES = ("dir", "to", "clip", "data", "pca", "pipeline")
"""Options whose values are places, though they may be no paths."""


class Once(argparse._StoreAction):
    """Keeps an option's value, and refuses a second one instead of dropping the first."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        """Called with each value that is given."""
        if option_string is not None:  # None: a positional argument
            if option_string in parser.given:
                both = f"{parser.given[option_string]}, {values}"
                raise UserError(f"{option_string}: given twice ({both}); give it once")
            parser.given[option_string] = values
        super().__call__(parser, namespace, values, option_string)


class CommandParser(argparse.ArgumentParser):
    """A parser that raises `UserError` and takes sampler settings wherever they stand.

    Sampler settings are words such as ``decoder.steps=16``. They are looked for among all words
    but the values of options and what follows ``--``.
    """

    sampled: tuple[str, ...] = ()
    """The stages whose sampler settings the command takes, into ``sampler_words``."""
    verbs: dict[str, CommandParser] = {}
    """Parsers that take over where their word comes first (`unclip evaluate images ...`)."""
    reads_settings = False
    """Whether the command reads such settings itself, from its overrides (`unclip evaluate`)."""
    given: dict[str, Any]
    """Options of one value that have been read, with it."""

    def __init__(self, **kwargs: Any):
        if kwargs.get("description"):  # formatters that keep examples as they are do not wrap it
            kwargs["description"] = textwrap.fill(kwargs["description"], WIDTH)
        super().__init__(allow_abbrev=False, **kwargs)
        for action in (None, "store"):
            self.register("action", action, Once)

    def error(self, message: str) -> Any:
        """One line instead of argparse's usage and message."""
        if found := _NO_COMMAND.match(message):
            what, word, listed = found.groups()
            hint = nearest(word, re.findall(r"[\w-]+", listed))
            raise UserError(f"{word}: no such {what.lower()}{hint}")
        raise UserError(f"{message}; see `{self.prog} --help`")

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Arguments; of a command none are left over.

        Raises:
            UserError: an argument that the command does not have, or a setting of no stage.
        """
        words = list(args or [])
        if words and words[0] in self.verbs:
            return self.verbs[words[0]].parse_known_args(words[1:], namespace)
        if self._subparsers is not None:  # argparse would ask for a command first
            for option in itertools.takewhile(lambda word: word.startswith("-"), words):
                if option != "--" and option.partition("=")[0] not in self._option_string_actions:
                    self._refuse([option], words)
        self._refuse_empty(words)
        self.given = {}
        plain, settings = self._split(words) if self.sampled else (words, [])
        found, rest = super().parse_known_args(plain, namespace)
        if self._subparsers is not None:
            if rest:
                self._refuse(rest, words)
            return found, rest
        overrides = [word for word in rest if "=" in word and not word.startswith("-")]
        unknown = [word for word in rest if word not in overrides or "overrides" not in found]
        if unknown:
            self._refuse(unknown, words)
        if overrides:
            found.overrides = [*found.overrides, *overrides]
        if self.sampled:
            found.sampler_words = settings
        _refuse_urls(words, found)
        for name, value in vars(found).items():
            several = isinstance(value, list)
            own = [_word_at_home(v) for v in value] if several else _word_at_home(value)
            setattr(found, name, own)
        return found, []

    def _split(self, words: list[str]) -> tuple[list[str], list[str]]:
        """Words and sampler settings; refuses what looks like a setting and is none."""
        rest: list[str] = []
        settings: list[str] = []
        options = self._option_string_actions  # argparse has no public way to ask
        value_of = ""  # the option before that takes one value
        for at, word in enumerate(words):
            if word == "--":
                return [*rest, *words[at:]], settings
            if value_of or not LOOKS_LIKE_SETTING.fullmatch(word):
                rest.append(word)
            else:
                self._check_setting(word)
                settings.append(word)
            action = None if value_of else options.get(word)
            value_of = word if action is not None and action.nargs is None else ""
        return rest, settings

    def _refuse_empty(self, words: list[str]) -> None:
        """Refuse an empty place: as a path it would be the folder of the command."""
        for option, value in zip(words, [*words[1:], None]):
            if option == "--":
                return
            name, equals, rest = option.partition("=")
            action = self._option_string_actions.get(name)
            empty = (equals and not rest) or (not equals and value == "")
            if action is not None and empty and (action.type is Path or action.dest in _PLACES):
                raise UserError(f"{name}: must not be empty")

    def _check_setting(self, word: str) -> None:
        key = word.partition("=")[0]
        stage, _, name = key.partition(".")
        if stage in STAGES and not name:
            raise UserError(f"{word}: give the setting's name, as {stage}.steps=16")
        if stage not in STAGES:
            hint = nearest(stage, STAGES, otherwise="")
            raise UserError(
                f"{word}: is not a sampler setting{hint or ', such as decoder.steps=16'}; a "
                "caption or a file that looks like one goes after `--`"
            )
        if stage not in self.sampled:
            raise UserError(f"{key}: `{self.prog}` does not use the {stage}")

    def _refuse(self, unknown: list[str], words: list[str]) -> None:
        """Name the first argument that is unknown, and what takes its place."""
        options = [word for word in unknown if word.startswith("-")]
        if not options:
            self.error(f"unrecognized argument: {unknown[0]}")
        option = options[0].partition("=")[0]
        if new := self._replacement(options[0], words):
            raise UserError(f"{option}: has been replaced by {new}")
        close = closest(option, self._option_string_actions, alike=0.75)
        hint = f"; did you mean {close!r}?" if close else ""
        self.error(f"unrecognized option: {option}{hint}")

    def _replacement(self, word: str, words: list[str]) -> str:
        """How an option of earlier versions is given today; empty for any other."""
        if not (self.sampled or self.reads_settings):
            return ""
        option, _, value = word.partition("=")
        after = words[words.index(word) + 1 : words.index(word) + 2] if word in words else []
        value = value or "".join(w for w in after if not w.startswith("--")) or "VALUE"
        stage, name = "STAGE", option.removeprefix("--").replace("_", "-")
        if found := FORMER.fullmatch(option.replace("_", "-")):
            stage, name = found.groups()
        if name not in SETTINGS:
            return ""
        if stage in STAGES and self.sampled and stage not in self.sampled:
            raise UserError(f"{option}: `{self.prog}` does not use the {stage}")
        if name == "eta" and "--eta" in self._option_string_actions:
            return f"--eta {value}"
        return f"{stage}.{name.replace('-', '_')}={value}"


def seed(text: str) -> int:
    """The ``type`` of every --seed."""
    require_seed(number := int(text), "--seed")
    return number


def _refuse_urls(words: list[str], found: Any) -> None:
    """Refuse a URL where a local path belongs, before the path loses one of its slashes."""
    given = [part for word in words for part in (word, word.partition("=")[2]) if "://" in part]
    urls = {Path(part): part for part in given}
    for value in vars(found).values():
        for path in value if isinstance(value, list) else [value]:
            if isinstance(path, Path) and path in urls:
                raise UserError(
                    f"{urls[path]}: is an address; a local file or folder is needed here"
                )


def _word_at_home(word: Any) -> Any:
    """A path, or the path of ``key=path``."""
    key, equals, value = word.partition("=") if isinstance(word, str) else ("", "", "")
    is_override = equals and re.fullmatch(r"[\w.]+", key)
    return f"{key}={at_home(value)}" if is_override else at_home(word)
