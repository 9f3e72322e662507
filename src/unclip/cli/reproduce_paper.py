"""`unclip reproduce-paper`: the paper's claims, tested in miniature."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from unclip.cli.outputs import check_folder
from unclip.common.terminal import say

EXAMPLES = """\
examples:
  unclip reproduce-paper --dry-run
  unclip reproduce-paper --budget 0.2
  unclip reproduce-paper --only two-candidates pca-coarse-to-fine
  unclip reproduce-paper --cascade runs/quickstart --out runs/claims_quickstart
"""


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the command."""
    p = commands.add_parser(
        "reproduce-paper",
        help="test the paper's claims in miniature and write a page of verdicts",
        description="Trains what the claims compare (ordinary runs, in OUT/runs), judges each arm "
        "(kept in OUT/evaluations), and writes OUT/index.html and OUT/reproduction.md after each "
        "step: effects with their intervals, and whether a claim holds, fails, or is not told "
        "apart. Run the same command again to resume; what did not change is kept.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="fields of every training"
    )
    p.add_argument(
        "--only", nargs="+", default=[], metavar="CLAIM", help="these claims (default all)"
    )
    p.add_argument("--list", action="store_true", help="list the claims and exit")
    p.add_argument(
        "--budget",
        type=float,
        metavar="HOURS",
        help="shorten trainings and judge fewer captions to fit (default: the whole preset)",
    )
    p.add_argument("--preset", default="cpu", help="in experiments/reproduction, or a YAML file")
    p.add_argument(
        "--cascade",
        type=Path,
        metavar="DIR",
        help="train nothing; test the claims that this cascade's stages suffice for",
    )
    p.add_argument("--device", default="cpu", help="to judge on (default cpu)")
    p.add_argument(
        "--out", type=Path, default=Path("runs/reproduction"), help="default runs/reproduction"
    )
    p.add_argument("--dry-run", action="store_true", help="print what would be done, and exit")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Plan, say so, do it."""
    from unclip.common import tables
    from unclip.common.checks import require
    from unclip.common.errors import UserError
    from unclip.reproduction.preset import chosen_claims, load_claims, load_preset

    claims = load_claims()
    if args.list:
        return tables.show(
            [["claim", "where", "says"], *([k, c.source, c.says] for k, c in claims.items())]
        )
    require(args.budget is None or 0 < args.budget < 1e4, "--budget", "must be above 0 hours")
    claims = chosen_claims(claims, args.only)
    preset = load_preset(args.preset)
    if args.cascade is not None and not args.cascade.is_dir():
        raise UserError(f"--cascade {args.cascade}: is not a folder")
    check_folder(args.out)
    from unclip.common.devices import find_device
    from unclip.reproduction.run import plan, plan_lines, reproduce, say_plan

    device = str(find_device(args.device))
    words = [w for w in sys.argv[1:] if w != "--dry-run"]
    work = plan(
        preset,
        claims,
        hours=args.budget,
        out=args.out,
        device=device,
        command=f"unclip {shlex.join(words)}",
        cascade=args.cascade,
        overrides=args.overrides,
    )
    say_plan(work)
    tables.show(plan_lines(work))
    if args.dry_run:
        return
    reproduce(work)
    say(args.out / "index.html")
