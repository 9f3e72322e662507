"""`unclip merge`: adapters and their base as whole weights."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLES = """\
examples:
  unclip merge runs/stars --out stars
  unclip merge runs/stars:0.5 runs/pencil:0.8 --out both
"""


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the command."""
    p = commands.add_parser(
        "merge",
        help="add adapters to the weights that they were trained on",
        description="Writes an artifact with the whole weights, which needs neither the adapters "
        "nor their base. Sampling does the same by itself with one adapter.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "adapter",
        nargs="+",
        metavar="ADAPTER",
        help="run or artifact trained with adapter.kind=lora; PATH:WEIGHT counts it WEIGHT times",
    )
    p.add_argument("--out", type=Path, required=True, help="the new artifact's folder")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Merge, and say where."""
    from unclip.cli.outputs import check_folder, writing
    from unclip.common.added import read_adapter
    from unclip.common.errors import UserError
    from unclip.common.inputs import require_apart
    from unclip.common.terminal import say
    from unclip.weights.merging import merge

    read = [read_adapter(word)[0] for word in args.adapter]
    require_apart(
        args.out, [p for each in read for p in (each.path, each.base.path)], option="--out "
    )
    check_folder(args.out)
    if args.out.exists():
        raise UserError(f"--out {args.out}: exists; name another folder")
    with writing(args.out):
        found = merge(args.adapter, args.out)
    say(found.path)
