"""`unclip reproduce-paper`: the paper's claims, tested in miniature."""

from __future__ import annotations

import argparse
from pathlib import Path

from unclip.cli.outputs import check_folder
from unclip.common.terminal import say

DEFAULTS = {"budget": None, "preset": "cpu", "cascade": None, "device": "cpu"}
OUT = Path("runs/reproduction")
EXAMPLES = """\
examples:
  unclip reproduce-paper --dry-run
  unclip reproduce-paper --budget 0.2
  unclip reproduce-paper --only two-candidates pca-coarse-to-fine
  unclip reproduce-paper --cascade runs/quickstart --out runs/claims_quickstart
  unclip reproduce-paper --preset photos --out runs/claims_photos data.source=PHOTOS
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
    p.add_argument(
        "--list",
        action="store_true",
        help="list the claims and exit (--dry-run says which can be tested)",
    )
    p.add_argument(
        "--budget",
        type=float,
        metavar="HOURS",
        help="shorten trainings and judge fewer captions to fit (default: the whole preset)",
    )
    p.add_argument(
        "--preset", default=DEFAULTS["preset"], help="in experiments/reproduction, or a YAML file"
    )
    p.add_argument(
        "--cascade",
        type=Path,
        metavar="DIR",
        help="train nothing; test the claims that this cascade's stages suffice for",
    )
    p.add_argument("--device", default=DEFAULTS["device"], help="to judge on (default cpu)")
    p.add_argument("--out", type=Path, default=OUT, help=f"default {OUT}")
    p.add_argument(
        "--judge", metavar="CLAIM", help="judge this claim alone, whose arms are trained, and exit"
    )
    p.add_argument("--dry-run", action="store_true", help="print what would be done, and exit")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Plan, say so, do it."""
    from unclip.common import tables
    from unclip.common.checks import require
    from unclip.common.errors import UserError
    from unclip.reproduction.preset import chosen_claims, load_claims, load_preset

    preset = load_preset(args.preset)
    claims = load_claims(preset.claims)
    if args.list:
        return tables.show(
            [["claim", "where", "says"], *([k, c.source, c.says] for k, c in claims.items())]
        )
    require(
        args.budget is None or 0 < args.budget < 1e4,
        "--budget",
        "must be above 0 and below 10,000 hours",
    )
    claims = chosen_claims(claims, args.only)
    if args.cascade is not None and not args.cascade.is_dir():
        raise UserError(f"--cascade {args.cascade}: is not a folder")
    require(not (args.judge and args.dry_run), "--dry-run", "has no effect with --judge")
    check_folder(args.out)
    _check_ours(args.out)
    from unclip.common.devices import find_device
    from unclip.reproduction.run import judge, plan, plan_lines, reproduce, say_plan

    work = plan(
        preset,
        claims,
        hours=args.budget,
        out=args.out,
        device=str(find_device(args.device)),
        words=_words(args),
        cascade=args.cascade,
        overrides=args.overrides,
    )
    if args.judge is not None:
        chosen_claims(claims, [args.judge], option="--judge")
        return say(f"{args.judge}: {judge(work, args.judge)}")
    say_plan(work)
    tables.show(plan_lines(work))
    if args.dry_run:
        return
    reproduce(work)
    say(args.out / "index.html")


def _check_ours(out: Path) -> None:
    """Refuse a folder that has a page of something else, which would be replaced."""
    from unclip.common import json_text
    from unclip.common.errors import UserError

    there = [name for name in ("index.html", "results.json") if (out / name).exists()]
    if not there:
        return
    try:
        found = json_text.read((out / "results.json").read_bytes(), finite=False)
        ours = all({"claim", "verdict"} <= one.keys() for one in found)
    except (UserError, OSError, ValueError, AttributeError, TypeError):
        ours = False
    if not ours:
        raise UserError(f"--out {out}: has {there[0]}, not of this command; name another folder")


def _words(args: argparse.Namespace) -> list[str]:
    """What does the same work again."""
    words = ["reproduce-paper", *args.overrides]
    for name, default in {**DEFAULTS, "out": OUT}.items():
        if (value := getattr(args, name)) != default:
            words += [f"--{name}", str(value)]
    return words + (["--only", *args.only] if args.only else [])
