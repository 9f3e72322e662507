"""`unclip study`: what people prefer, asked as in the paper's table 1."""

from __future__ import annotations

import argparse
import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unclip.cli import study_new
from unclip.cli.outputs import Outputs, check_file, check_folder, writing
from unclip.cli.sampling_options import add_force
from unclip.common.checks import require
from unclip.common.counted import counted
from unclip.common.errors import UserError
from unclip.common.listening import check_address, is_loopback
from unclip.common.terminal import say

if TYPE_CHECKING:
    from unclip.study.study import Study
    from unclip.study.votes import Votes

EXAMPLES = {
    "serve": """\
  unclip study serve runs/study
  unclip study serve runs/study --host 0.0.0.0 --votes 3
""",
    "report": """\
  unclip study report runs/study
  unclip study report runs/study --json
  unclip study report runs/study --out runs/study/report
""",
    "export": """\
  unclip study export runs/study --out sheets --sheets 3
  unclip study export runs/study --out crowd --images-at https://example.org/study/
  unclip study export runs/study --votes votes.csv
""",
    "import": """\
  unclip study import runs/study sheets/sheet_001.csv --rater Ada
  unclip study import runs/study crowd_1.csv crowd_2.csv
""",
}


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the command and its verbs."""
    p = commands.add_parser(
        "study",
        help="ask people which of two cascades they prefer",
        description="Pairs of images of the same captions, a page or sheets on which people choose,"
        " and table 1 of the paper from what they chose.",
        **_epilog("new", *EXAMPLES),
    )
    verbs = p.add_subparsers(title="verbs", required=True, metavar="VERB")
    study_new.add(verbs, **_epilog("new"))
    v = verbs.add_parser(
        "serve",
        help="serve the page on which people vote",
        description="Serves until Ctrl-C. Votes are saved one by one; raters continue where they "
        "were. With --host, only those get in who have the printed link. Needs the extra: pip "
        "install 'unclip[demo]'.",
        **_epilog("serve"),
    )
    _add_study(v)
    v.add_argument("--host", default="127.0.0.1", help="address to listen at (default 127.0.0.1)")
    v.add_argument("--port", type=int, default=7870, help="default 7870")
    v.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name that leads to 127.0.0.1, by which raters reach the page; may be repeated",
    )
    v.add_argument(
        "--votes",
        type=int,
        metavar="K",
        help="hand out no pair that has K votes (default: every rater may judge all)",
    )
    v.set_defaults(run=serve)
    v = verbs.add_parser(
        "report",
        help="print what the votes come to, beside the paper's table 1",
        description="Shares with intervals, ties counted both ways, sign test, bootstrap over "
        "captions, agreement of raters, and who failed the catch pairs.",
        **_epilog("report"),
    )
    _add_study(v)
    v.add_argument("--json", action="store_true", help="machine-readable")
    v.add_argument(
        "--out", type=Path, metavar="DIR", help="also write report.md and report.html there"
    )
    add_force(v)
    v.set_defaults(run=report)
    v = verbs.add_parser(
        "export",
        help="write pairs as sheets to fill in, or votes, as CSV",
        description="A sheet has every pair once, in an order and with sides of its own, and "
        "nothing tells which side is which. Fill in the column answer with left, right or unsure.",
        **_epilog("export"),
    )
    _add_study(v)
    v.add_argument("--out", type=Path, metavar="DIR", help="gets sheet_001.csv, ... and images/")
    v.add_argument("--sheets", type=int, default=1, help="one per rater (default 1)")
    v.add_argument(
        "--images-at",
        default="images/",
        metavar="PREFIX",
        help="what stands before the names of images, as https://example.org/ (default images/)",
    )
    v.add_argument("--votes", type=Path, metavar="FILE.csv", help="instead: the votes so far")
    add_force(v)
    v.set_defaults(run=export)
    v = verbs.add_parser(
        "import",
        help="read filled sheets",
        description="All votes of all files are recorded, or none. A vote that is there already "
        "counts once.",
        **_epilog("import"),
    )
    _add_study(v)
    v.add_argument("files", nargs="+", type=Path, metavar="FILE", help="of `export`, filled in")
    v.add_argument("--rater", metavar="NAME", help="who filled in rows whose column rater is empty")
    v.set_defaults(run=import_)


def _epilog(*verbs: str) -> dict[str, Any]:
    examples = {"new": study_new.EXAMPLES} | EXAMPLES
    return {
        "epilog": "examples:\n" + "".join(examples[verb] for verb in verbs),
        "formatter_class": argparse.RawDescriptionHelpFormatter,
    }


def _add_study(v: argparse.ArgumentParser) -> None:
    v.add_argument("study", type=Path, metavar="STUDY", help="folder of `unclip study new`")


def serve(args: argparse.Namespace) -> None:
    """Serve until interrupted."""
    if find_spec("starlette") is None or find_spec("uvicorn") is None:
        raise UserError("study serve: needs starlette and uvicorn: `pip install 'unclip[demo]'`")
    require(args.votes is None or args.votes >= 1, "--votes", "must be at least 1")
    check_address(args.host, args.port)
    study, votes = _open(args.study)
    from unclip.study.server import serve as serve_page

    if not is_loopback(args.host):
        say(
            f"unclip: --host {args.host}: the connection is not encrypted, and whoever has the "
            "link may vote; Ctrl-C ends it",
            error=True,
        )
    try:
        serve_page(
            study,
            votes,
            host=args.host,
            port=args.port,
            enough=args.votes,
            names=args.allow_host,
        )
    finally:
        votes.close()


def report(args: argparse.Namespace) -> None:
    """Print it, write it."""
    out = Outputs(args.out, ["report.md", "report.html"], force=args.force) if args.out else None
    study, votes = _open(args.study, read_only=True)
    from unclip.common.atomic import atomic_write
    from unclip.study import report as tables
    from unclip.study.results import evaluate_votes

    found = evaluate_votes(study, votes.all())
    if not found.raters:
        raise UserError(f"{args.study}: nobody has voted yet; `unclip study serve {args.study}`")
    if args.json:
        say(json.dumps(found.as_dict(), indent=2), lines=True)
    else:
        tables.show(found)
    if out is None:
        return
    for name, text in (("report.md", tables.markdown(found)), ("report.html", tables.page(found))):
        with writing(args.out), atomic_write(out.path(name)) as scratch:
            scratch.write_text(text, encoding="utf-8")
        say(f"written to {out.path(name)}", error=True)


def export(args: argparse.Namespace) -> None:
    """Write sheets, or votes."""
    if (args.out is None) == (args.votes is None):
        raise UserError("give --out DIR for sheets, or --votes FILE.csv for the votes so far")
    require(1 <= args.sheets <= 999, "--sheets", "must be from 1 to 999")
    from unclip.study import sheets

    if args.votes is not None:
        check_file(args.votes, "--votes", force=args.force)
        study, votes = _open(args.study, read_only=True)
        with writing(args.votes, "--votes"):
            many = sheets.write_votes(study, votes.all(), args.votes)
        say(f"{args.votes}: {counted(many, 'vote')}")
        return
    check_folder(args.out)
    for number in range(1, args.sheets + 1):
        check_file(args.out / sheets.sheet_name(number), "--out", force=args.force)
    study, _ = _open(args.study, read_only=True)
    with writing(args.out):
        sheets.write_sheets(study, args.out, args.sheets, args.images_at)
    say(f"{args.out}: {counted(args.sheets, 'sheet')} of {counted(len(study.pairs), 'pair')}")


def import_(args: argparse.Namespace) -> None:
    """Check all, then record all."""
    study, votes = _open(args.study)
    from unclip.study.sheets import read_votes
    from unclip.study.votes import Busy

    found = read_votes(study, votes, args.files, args.rater)
    try:
        new = votes.add(found)
    except Busy as error:
        raise UserError(f"{error}; no vote was recorded, try again") from None
    votes.close()
    say(f"{args.study}: {counted(new, 'new vote')}, {len(found) - new:,} were there already")


def _open(folder: Path, *, read_only: bool = False) -> tuple[Study, Votes]:
    from unclip.study.study import VOTES, load_study
    from unclip.study.votes import Votes

    study = load_study(folder)
    return study, Votes(folder / VOTES, read_only=read_only)
