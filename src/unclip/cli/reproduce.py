"""`unclip reproduce`: run somebody's bundle again and compare."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from unclip.cli.outputs import check_folder
from unclip.common.terminal import say

if TYPE_CHECKING:
    from unclip.sharing.reproduce import Report

EXAMPLES = """\
examples:
  unclip reproduce tiny.zip
  unclip reproduce hf://somebody/unclip-prior-tiny --dir again data.source=my/photos
  unclip reproduce tiny.zip --check-only
  unclip reproduce tiny.zip --dir other optim.lr=3e-4   (what if?)
exit status: 0 bit-identical or within tolerance, 1 different, 2 refused
"""


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the command."""
    p = commands.add_parser(
        "reproduce",
        help="retrain a bundle of `unclip share` and compare the results",
        description="Prints what differs between then and now, restores the parents from their "
        "weights if the bundle has them (else trains them too), trains with the same seed, and "
        "compares the weights and every metric step by step. For a cascade's bundle every stage is "
        "trained. Run the same command again to continue after an interruption.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "bundle",
        metavar="BUNDLE",
        help="FILE.zip, a folder, hf://USER/REPOSITORY or wandb://ENTITY/PROJECT/NAME",
    )
    p.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="key=value",
        help="fields of the experiment (of a cascade: of every stage that has them)",
    )
    p.add_argument(
        "--dir", type=Path, metavar="FOLDER", help="new or empty (default runs/reproduced/BUNDLE)"
    )
    p.add_argument(
        "--allow-source", action="store_true", help="read the data that the bundle names"
    )
    p.add_argument(
        "--check-only",
        action="store_true",
        help="verify the files and print what differs here; train nothing",
    )
    p.add_argument(
        "--rtol",
        type=float,
        default=0.01,
        metavar="R",
        help="relative difference that counts as within tolerance (default 0.01)",
    )
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Verify, say what differs, train, compare."""
    from unclip.common.checks import require
    from unclip.sharing import reproduce, rerun
    from unclip.sharing.compare import DIFFERENT
    from unclip.sharing.layout import RUN

    require(0 <= args.rtol < 1, "--rtol", "must be in [0, 1)")
    folder = args.dir or Path("runs/reproduced") / _stem(args.bundle)
    check_folder(folder, "--dir")
    how = (args.overrides, folder)
    with reproduce.unpacked(args.bundle, folder) as found:
        runs = reproduce.runs(found, *how, allow_source=args.allow_source)
        reports = {
            name: reproduce.check(again, args.bundle, rtol=args.rtol)
            for name, again in runs.items()
        }
        _say_before(reports)
        if args.check_only:
            return
        found = reproduce.place(found, args.bundle, *how)
    for name, again in reproduce.runs(found, *how, allow_source=args.allow_source).items():
        reproduce.run(again, reports[name], rerun.in_a_process)
    for name, report in reports.items():
        if name != RUN:
            say()
            say(name)
        _say_after(report)
    reproduce.write(reports, folder)
    say(f"written to {folder / reproduce.REPORT}", error=True)
    if any(report.verdict == DIFFERENT for report in reports.values()):
        raise SystemExit(1)


def _stem(bundle: str) -> str:
    """A folder's name for a bundle."""
    last = re.split(r"[/\\]", bundle.rstrip("/\\"))[-1].removesuffix(".zip")
    return re.sub(r"[^\w.-]", "-", last).strip(".") or "bundle"


def _say_before(reports: dict[str, Report]) -> None:
    from unclip.common import tables
    from unclip.sharing.layout import RUN
    from unclip.sharing.resumes import bent_line

    say("verified: every file is what the manifest says")
    environment = dict.fromkeys(row for report in reports.values() for row in report.environment)
    if environment:
        tables.show([["differs", "then", "now"], *map(list, environment)])
    else:
        say("nothing differs in code, packages, machine or data")
    for name, report in reports.items():
        of = "" if name == RUN else f"{name}: "
        for key, (then, now) in report.changed.items():
            say(f"{of}changed by you: {key}={then} -> {now}")
        if report.resumed:
            at = ", ".join(map(str, report.resumed))
            say(f"{of}resumed at step {at}: steps that only one run recorded there do not count")
        for step in report.extended:
            say(f"{of}ended at step {step} and was extended, which is repeated")
        if report.bent:
            say(f"{of}{bent_line(report.bent)}")


def _say_after(report: Report) -> None:
    from unclip.common import tables

    lines = [["", "then", "now", "difference", "from", "verdict"]]
    for row in (*report.parents, *report.metrics, *report.weights):
        numbers = ["" if v is None else f"{v:.5g}" for v in (row.then, row.now, row.distance)]
        lines.append([row.name, *numbers, "" if row.first is None else str(row.first), row.verdict])
    tables.show(lines)
    say("difference: the largest, relative, over all steps; from: the first step that differs")
    say(f"{report.verdict} (within tolerance: a difference of {report.rtol:g} at most)")
    if report.changed and report.verdict != "bit-identical":
        say(f"results differ; changed by you: {', '.join(report.changed)}")
