"""`unclip check-machine`: does training and sampling work here, and how fast?"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unclip.machine.engine import Progress

from unclip.cli.outputs import Outputs
from unclip.common.atomic import atomic_write
from unclip.common.errors import UserError
from unclip.common.terminal import say

EXAMPLES = """\
examples:
  unclip check-machine --out machine
  unclip check-machine --only train --only utilisation
  unclip check-machine --device cpu --budget 20
"""
TABLE, NUMBERS = "machine.md", "machine.json"


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the command."""
    p = commands.add_parser(
        "check-machine",
        help="check training and sampling on this machine, and measure them",
        description="Trains and samples every stage for a few steps in every precision, compiled, "
        "recomputed, sharded, offloaded, and compares losses and images with the CPU's. Measures "
        "memory against `unclip plan`, the share of the peak of large networks, images and crops "
        "per second. Each check is a process of its own. Fails if any of them does. On a CPU the "
        "networks are small, and what only a GPU can show is skipped.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default auto)")
    p.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="CHECK",
        help="this check and what it needs; repeatable (default all; --list names them)",
    )
    p.add_argument(
        "--budget",
        type=float,
        default=8.0,
        metavar="MINUTES",
        help="what is not done by then is left out (default 8)",
    )
    p.add_argument("--small", action="store_true", help="small networks on a GPU too")
    p.add_argument(
        "--out", type=Path, metavar="DIR", help=f"write {TABLE} and {NUMBERS} into this folder"
    )
    p.add_argument("--force", action="store_true", help="replace those files in --out")
    p.add_argument("--list", action="store_true", help="name the checks, and run none")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Run the checks, show the table, fail if a check did."""
    if not args.budget > 0:
        raise UserError(f"--budget {args.budget:g}: must be above 0")
    outputs = args.out and Outputs(args.out, [TABLE, NUMBERS], force=args.force)
    from unclip.common.devices import find_device

    device = find_device(args.device)
    if device.type == "mps":
        raise UserError("--device mps: only CUDA GPUs and CPUs are checked")
    from unclip.common import tables
    from unclip.machine import engine, report
    from unclip.machine.check import Machine
    from unclip.machine.registry import chosen

    checks = chosen(args.only)
    if args.list:
        for check in checks:
            say(f"{check.name:<14}{check.about}")
        return
    if device.index:
        _show_only(device.index)
    results = []
    with tempfile.TemporaryDirectory(prefix="unclip-machine-") as folder:
        small = args.small or device.type == "cpu"
        machine = Machine(device.type, small, Path(folder))
        for step in engine.run(checks, machine, seconds=60 * args.budget):
            results.append(step.result)
            say(_line(step), error=True)
    found = report.lines(results)
    if outputs:
        heading = f"## {report.title(results)}\n\n"
        command = f"`unclip check-machine --device {args.device}`: {report.summary(results)}.\n\n"
        about = {"device": str(device), "small": machine.small}
        _write(outputs.path(TABLE), heading + command + tables.markdown(found))
        numbers = report.as_json(results, about)
        _write(outputs.path(NUMBERS), json.dumps(numbers, indent=1) + "\n")
        say(outputs.path(TABLE))
    else:
        tables.show(found)
    bad = [each for each in results if each.state in (engine.FAILED, engine.LEFT_OUT)]
    line = f"check-machine: {report.summary(results)}"
    if bad:
        first = bad[0]
        raise UserError(f"{line}; first {first.check}, {first.item}: {first.reason}")
    say(line)


def _show_only(gpu: int) -> None:
    """Let the checks see this GPU alone; this process has not begun to use any."""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = shown.split(",")[gpu] if shown else str(gpu)


def _line(step: Progress) -> str:
    """How an item ended, and how long the rest may take."""
    result, (minutes, seconds) = step.result, divmod(int(step.left), 60)
    ended = f"{result.state}: {result.reason}" if result.reason else result.state
    where = f"[{step.done}/{step.total}] {result.check}, {result.item}"
    return f"{where}: {ended} ({result.seconds:.1f} s; at most {minutes}:{seconds:02d} left)"


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as part:
        part.write_text(text)
