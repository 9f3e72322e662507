"""`unclip completion`: what the TAB key offers after `unclip`."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from typing import Any

from unclip.cli.command_parser import Once
from unclip.common.terminal import say

EXAMPLES = """\
examples:
  eval "$(unclip completion bash)"     # in ~/.bashrc
  eval "$(unclip completion zsh)"      # in ~/.zshrc, after compinit
  unclip completion fish > ~/.config/fish/completions/unclip.fish
"""


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the command."""
    p = commands.add_parser(
        "completion",
        help="print a shell script that completes commands, experiments and their keys",
        description="Prints a script that a shell runs when it starts. After that, the Tab key "
        "completes commands, options, the names of experiments and the keys of their fields.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("shell", choices=["bash", "zsh", "fish"], help="the shell that you use")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Print the script."""
    import argcomplete

    say(argcomplete.shellcode(["unclip"], shell=args.shell), lines=True)


def answer(top: argparse.ArgumentParser) -> None:
    """Tell the shell what may come next, and end the process."""
    import argcomplete

    class Finder(argcomplete.CompletionFinder):
        def collect_completions(self, parsers: list, given: Any, prefix: str) -> list[str]:
            found = super().collect_completions(parsers, given, prefix)
            takes = any(action.dest == "overrides" for action in parsers[-1]._actions)
            if found or not takes or prefix.startswith("-"):
                return found
            # To argparse, overrides end where options begin; unclip takes them after options too.
            return [key for key in _keys(prefix, given) if key.startswith(prefix)]

    for action in _actions(top):
        if action.dest in COMPLETERS:
            action.completer = COMPLETERS[action.dest]  # type: ignore[attr-defined]
    argcomplete.safe_actions.add(Once)  # which it does not carry out otherwise
    Finder()(top, always_complete_options=False)


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)


def _experiments(prefix: str, **_: Any) -> Iterable[str]:
    from unclip.config.files import experiment_files

    return _or_files(prefix, [name for name, _ in experiment_files()])


def _recipes(prefix: str, **_: Any) -> Iterable[str]:
    from unclip.config.files import yaml_files

    return _or_files(prefix, [name.split("/")[1] for name in yaml_files("recipes")])


def _or_files(prefix: str, names: list[str]) -> Iterable[str]:
    """``names``, or YAML files where none begins with ``prefix``."""
    from argcomplete.completers import FilesCompleter

    if any(name.startswith(prefix) for name in names):
        return names
    return FilesCompleter(("yaml", "yml"))(prefix)


def _keys(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> dict[str, str]:
    """``key=`` of every field that the line's experiment has, each with its value."""
    from unclip.common import yaml_text
    from unclip.common.errors import UserError
    from unclip.common.fields import leaves
    from unclip.config.load import load_experiment

    name = getattr(parsed_args, "experiment", None) or getattr(parsed_args, "parent", None)
    if name is None or "=" in prefix:
        return {}
    try:
        values = load_experiment(name).as_dict()
    except UserError:
        return {}
    return {f"{key}=": yaml_text.in_line(value) for key, value in leaves(values)}


def _stages(**_: Any) -> Iterable[str]:
    from unclip.stages import registry

    return registry.STAGES


def _nothing(**_: Any) -> Iterable[str]:
    return ()


COMPLETERS = {
    "experiment": _experiments,
    "a": _experiments,
    "b": _experiments,
    "parent": _experiments,
    "stage": _experiments,  # of unclip evaluate
    "recipe": _recipes,
    "overrides": _keys,
    "filter": _stages,
    "name": _nothing,  # of what does not exist yet
}
"""By what an argument is called in the code (its ``dest``), whatever command it belongs to."""
