"""`unclip plan`: what a training will cost, before machines are rented for it."""

from __future__ import annotations

import argparse
import json

from unclip.common.terminal import say

EXAMPLES = """\
examples:
  unclip plan decoder/paper --gpus 64 --device h200
  unclip plan decoder/l --gpus 8 --device a100 --mfu 0.35 trainer.accumulate=4
  unclip plan prior/diffusion_paper --gpus 32 --device h100 --json
  unclip plan decoder/tiny --gpus 1 --device cpu
"""


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the command."""
    p = commands.add_parser(
        "plan",
        help="estimate a training: memory, arithmetic, days, and which strategy fits",
        description="Nothing is trained or downloaded: one step is traced with fake tensors, which "
        "take no memory.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("experiment", help="kind/name (see `unclip experiments list`) or a YAML file")
    p.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="fields of the experiment"
    )
    p.add_argument("--gpus", type=int, required=True, help="number of GPUs, over all machines")
    p.add_argument(
        "--device",
        required=True,
        help="h200, h100, a100, v100, a10g, l4, t4, rtx5090, rtx4090, rtx3090 or cpu (this one)",
    )
    p.add_argument(
        "--mfu",
        type=float,
        default=0.4,
        help="share of the device's dense peak at which it computes (default 0.4)",
    )
    p.add_argument("--json", action="store_true", help="machine-readable")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Plan and print."""
    from unclip.config.load import load_experiment

    resolved = load_experiment(args.experiment, args.overrides)  # before the slow imports
    from unclip.planning.plan import plan
    from unclip.planning.table import as_json, text

    found = plan(resolved, gpus=args.gpus, device=args.device, mfu=args.mfu)
    say(json.dumps(as_json(found), indent=2) if args.json else text(found), lines=True)
