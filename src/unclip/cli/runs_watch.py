"""`unclip runs watch`: the curves of a run in the terminal, while it trains."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from typing import TYPE_CHECKING, Any

from unclip.common.checks import require
from unclip.common.terminal import say, visible

if TYPE_CHECKING:
    from rich.console import Group

    from unclip.tracking.watch import View

EXAMPLES = """\
examples:
  unclip runs watch prior/diffusion_tiny
  unclip runs watch runs/quickstart/decoder --metric train/loss --every 10
  unclip runs watch prior/tiny --notify https://example.org/hook
"""
MOST = 4  # curves
HEIGHT = 6  # lines of each


def add_verb(verbs: Any) -> argparse.ArgumentParser:
    """Declare the verb."""
    v = verbs.add_parser(
        "watch",
        help="show a run's curves in the terminal until it ends",
        description="Redraws the curves as they grow, with pace and time left; in a pipe, "
        "prints a line per logged step. Ctrl-C stops watching, not the run. Exits 1 if "
        "the run ends otherwise than finished.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    v.add_argument("name", metavar="RUN", help="folder, experiment, or part of a folder's name")
    v.add_argument("--metric", action="append", default=[], help="a curve to show; repeatable")
    v.add_argument("--every", type=float, default=2.0, help="seconds between updates (default 2)")
    v.add_argument(
        "--notify",
        metavar="URL",
        help="when the run ends, send its state and last values there as JSON (nothing is sent "
        "otherwise)",
    )
    v.set_defaults(run=run)
    return v


def run(args: argparse.Namespace) -> None:
    """Watch until the run ends."""
    from unclip.tracking import index, watch

    require(0 < args.every <= 3600, "--every", f"{args.every:g} must be from 0 to 3600 seconds")
    if args.notify is not None:
        watch.check_address(args.notify)
    record = index.choose(args.name, args.root)
    found = watch.view(record.folder)
    found.chosen(args.metric, MOST)
    title = f"{record.experiment}  {record.folder}"
    with contextlib.suppress(KeyboardInterrupt):
        found = _drawn(args, title, record) if sys.stdout.isatty() else _told(args, title, record)
        if args.notify is not None:
            why = watch.notify(args.notify, record.experiment, record.folder, found)
            if why is not None:
                say(f"unclip: warning: --notify {args.notify}: {why}", error=True)
        if found.state != "finished":
            say(f"{title}: {found.state}{f' ({found.why})' if found.why else ''}", error=True)
            raise SystemExit(1)


def _drawn(args: argparse.Namespace, title: str, record: Any) -> View:
    """On a terminal: one place, drawn again and again."""
    from rich.live import Live

    from unclip.tracking import watch

    with Live(auto_refresh=False) as live:
        while True:
            found = watch.view(record.folder)
            live.update(_figure(title, found, args.metric, live.console.width), refresh=True)
            if found.state != "running":
                return found
            time.sleep(args.every)


def _figure(title: str, found: View, metrics: list[str], width: int) -> Group:
    from rich.console import Group
    from rich.text import Text

    from unclip.tracking.files import shown
    from unclip.tracking.watch import chart

    parts = [Text(visible(title), style="bold"), Text(visible(found.line()))]
    for name in found.chosen(metrics, MOST):
        curve = found.curves[name]
        numbers = [value for _, value in curve]
        edge = [shown(max(numbers)), *[""] * (HEIGHT - 2), shown(min(numbers))]
        wide = max(map(len, edge))
        parts.append(Text(f"\n{visible(name)}  {shown(numbers[-1])}", style="bold"))
        for mark, line in zip(edge, chart(curve, max(10, width - wide - 2), HEIGHT)):
            parts.append(Text(f"{mark:>{wide}} {line}"))
    return Group(*parts)


def _told(args: argparse.Namespace, title: str, record: Any) -> View:
    """Elsewhere: a line for each step that was logged."""
    from unclip.tracking import watch

    say(title)
    last = -1
    while True:
        found = watch.view(record.folder)
        if found.step != last or found.state != "running":
            say(f"{found.line()}  {watch.values(found, found.chosen(args.metric, MOST))}".rstrip())
            last = found.step
        if found.state != "running":
            return found
        time.sleep(args.every)
