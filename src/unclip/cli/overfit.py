"""`unclip overfit`: can a stage memorise four samples?"""

from __future__ import annotations

import argparse

from unclip.common.terminal import say

EXAMPLES = """\
examples:
  unclip overfit decoder/tiny
  unclip overfit prior/mine optim.lr=1e-3 --with-parents
"""


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the command."""
    p = commands.add_parser(
        "overfit",
        help="check that a stage can memorise four samples",
        description="Trains an experiment on four of its samples, with nothing dropped, corrupted "
        "or guided, and compares what it then samples with them. Fails if the loss does not fall "
        "or the samples differ. Writes no run.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("experiment", help="kind/name (see `unclip experiments list`) or a YAML file")
    p.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="fields of the experiment"
    )
    p.add_argument(
        "--with-parents",
        action="store_true",
        help="first train what it depends on and has no finished run (listed before it begins)",
    )
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Resolve, train on four samples, say what came of it."""
    from unclip.config.load import load_experiment

    resolved = load_experiment(args.experiment, args.overrides)  # before the slow imports
    from unclip.runs.overfit import check

    say(check(resolved, with_parents=args.with_parents), lines=True)
