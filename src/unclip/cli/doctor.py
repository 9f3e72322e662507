"""`unclip doctor`: what is installed here, what is wrong with it, and the fix."""

from __future__ import annotations

import argparse
import json

from unclip.common.terminal import say

EXAMPLES = """\
examples:
  unclip doctor
  unclip doctor --json > doctor.json
"""


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the command."""
    p = commands.add_parser(
        "doctor",
        help="say what is installed here, what is wrong, and the fix",
        description="Prints versions, devices, folders and their free space, whether there are "
        "keys (never the keys), and which extras are missing. Contacts no server. Exits 1 if "
        "something is broken. Paste its output into a bug report.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--json", action="store_true", help="machine-readable")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Examine, print, and fail if something is broken."""
    from unclip.machine.doctor import examine

    report = examine()
    if args.json:
        say(json.dumps(report, indent=2), lines=True)
    else:
        _print(report)
    if report["problems"]:
        raise SystemExit(1)


def _print(report: dict) -> None:
    problems = report["problems"]
    for name, values in report.items():
        if name == "problems":
            continue
        say(name)
        width = max(map(len, values), default=0)
        for key, value in values.items():
            say(f"  {key:<{width}}  {'missing' if value is None else value}")
        say()
    say("nothing is wrong" if not problems else "what is wrong")
    for problem in problems:
        say(f"  {problem['what']}")
        say(f"    fix: {problem['fix']}")
