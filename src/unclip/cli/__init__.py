"""The command line: one short file per command, each imported only when it is run."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence

import unclip
from unclip.cli import (
    check_machine,
    completion,
    crash,
    data,
    degrade,
    demo,
    doctor,
    edit,
    embed,
    evaluate,
    experiments,
    export_weights,
    figures,
    finetune,
    fit_pca,
    fit_probe,
    fit_variance,
    import_weights,
    inpaint,
    interpolate,
    memory,
    merge,
    overfit,
    plan,
    probe,
    recipe,
    reproduce,
    reproduce_paper,
    runs,
    sample,
    share,
    streams,
    study,
    sweep,
    train,
    vary,
)
from unclip.cli.command_parser import CommandParser
from unclip.common.errors import Interrupted, UserError
from unclip.common.terminal import say

COMMANDS = (
    train,
    finetune,
    overfit,
    embed,
    fit_pca,
    fit_probe,
    fit_variance,
    sample,
    vary,
    interpolate,
    edit,
    inpaint,
    probe,
    figures,
    evaluate,
    study,
    demo,
    degrade,
    recipe,
    sweep,
    plan,
    check_machine,
    doctor,
    data,
    import_weights,
    export_weights,
    merge,
    share,
    reproduce,
    reproduce_paper,
    experiments,
    runs,
    completion,
)


def parser() -> CommandParser:
    """The whole command line; building it imports no torch."""
    top = CommandParser(
        prog="unclip",
        description="Train, ablate, reproduce and use the whole unCLIP (DALL-E 2) system.",
        epilog="`unclip COMMAND --help` explains a command, with examples.",
    )
    top.add_argument("--version", action="version", version=f"unclip {unclip.__version__}")
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for module in COMMANDS:
        module.add(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0 done, 2 the user can fix it, 75 resumable, 130 interrupted, 1 a bug."""
    streams.prepare()
    args = None
    try:
        try:
            args = _parse(argv)
            args.run(args)
        finally:
            sys.stdout.flush()
    except UserError as error:
        say(f"unclip: error: {_line(error)}", error=True)
        return 75 if isinstance(error, Interrupted) else 2
    except BrokenPipeError:  # `unclip ... | head`
        streams.drop_output()
        return 0
    except OSError as error:  # a full or read-only disk, or standard output
        streams.drop_output()
        say(f"unclip: error: {streams.reason(error)}", error=True)
        return 2
    except (ImportError, MemoryError) as error:  # torch's libraries did not fit, for example
        lines = str(error).strip().splitlines() or ["out of memory"]
        line = f"{lines[0]}; a package is missing or damaged, or the memory limit is too low"
        say(f"unclip: error: {line}", error=True)
        return 2
    except KeyboardInterrupt:
        say("unclip: interrupted", error=True)
        return 130
    except Exception as error:
        if memory.is_full(error):
            say(f"unclip: error: {memory.line(error, args)}", error=True)
            return 2
        say(f"unclip: error: {crash.line(error)}", error=True)  # nobody has foreseen it
        return 1
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    words = list(sys.argv[1:] if argv is None else argv)
    top = parser()
    if "_ARGCOMPLETE" in os.environ:  # a shell asks, see unclip.cli.completion
        completion.answer(top)
    return top.parse_args(words or ["--help"])


def _line(error: UserError) -> str:
    """The message alone: a loader worker wraps it in its own trace."""
    text = str(error).strip()
    if "Traceback (most recent call last)" in text:
        text = re.split("UserError: |BadSample: ", text.splitlines()[-1])[-1]
    return text or "unknown"
