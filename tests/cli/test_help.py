"""What `--help` says of every command and verb, and what is said of a word that is none."""

from __future__ import annotations

import argparse

import pytest

from unclip import cli
from unclip.cli import main


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--bogus",), "unrecognized option: --bogus; see `unclip --help`"),
        (("--versoin", "train"), "unrecognized option: --versoin; did you mean '--version'?"),
        (("data", "--bogus"), "unrecognized option: --bogus; see `unclip data --help`"),
        (("smaple", "a"), "smaple: no such command; did you mean 'sample'?"),
        (("data", "pak"), "pak: no such verb; did you mean 'pack'?"),
        (("data",), "the following arguments are required: VERB"),
    ],
)
def test_what_is_wrong_on_the_way_to_a_command_is_named(words, message, capsys):
    assert main(list(words)) == 2
    assert message in capsys.readouterr().err


def parsers(parser, words=()):
    """Every parser below ``parser``, by its words."""
    yield words, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield from parsers(below, (*words, name))


HELPED = [words for words, _ in parsers(cli.parser()) if words]


@pytest.mark.parametrize("words", HELPED, ids=" ".join)
def test_help_says_what_it_does_and_shows_it(words, capsys):
    with pytest.raises(SystemExit):
        main([*words, "--help"])
    text = capsys.readouterr().out
    assert f"unclip {' '.join(words)} " in text.partition("examples:")[2] + " "
    _, _, rest = text.partition("\n\n")
    assert not rest.startswith(("positional", "options")), "has no description"
    assert max(map(len, text.splitlines())) <= 100
    found = dict(parsers(cli.parser()))[words]
    unhelped = [a.dest for a in found._actions if not a.help]
    assert [dest for dest in unhelped if dest != argparse.SUPPRESS] == []
