"""`unclip share`: a finished run, or a cascade, as a bundle that others can check and run again."""

from __future__ import annotations

import argparse
from pathlib import Path

from unclip.cli.outputs import check_folder
from unclip.common.terminal import say

EXAMPLES = """\
examples:
  unclip share prior/tiny --to tiny.zip
  unclip share runs/quickstart/prior --to shared/prior --weights --license cc-by-4.0
  unclip share runs/quickstart --to cascade.zip --weights
  unclip share prior/tiny --to hf://me/unclip-prior-tiny --weights
  unclip share prior/tiny --to wandb://team/unclip/prior-tiny
"""


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the command."""
    p = commands.add_parser(
        "share",
        help="pack a finished run or cascade for others: experiment, provenance, metrics, samples",
        description="Packs a run, the runs that it depends on (CLIP, PCA) and a model card into a "
        "bundle; of a cascade's folder every stage. Paths and names of machine and user are "
        "removed. A new repository on the Hugging Face Hub is private.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "run_folder", metavar="RUN", help="folder of a run or a cascade, or an experiment's name"
    )
    p.add_argument(
        "--to",
        required=True,
        metavar="PLACE",
        help="FILE.zip, a folder, hf://USER/REPOSITORY or wandb://ENTITY/PROJECT/NAME",
    )
    p.add_argument(
        "--weights", action="store_true", help="include the weights, also those of the parents"
    )
    p.add_argument(
        "--license", default="unknown", metavar="ID", help="such as apache-2.0 (default unknown)"
    )
    p.add_argument("--force", action="store_true", help="replace an existing bundle")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Gather, write or send, say where it is."""
    if "://" not in args.to:
        to = Path(args.to)
        check_folder(to if to.is_dir() else to.parent, "--to")
    from unclip.sharing.share import share

    where = share(
        args.run_folder,
        args.to,
        weights=args.weights,
        licence=args.license,
        force=args.force,
    )
    say(where)
