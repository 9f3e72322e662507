"""`unclip evaluate`: how good priors are, side by side."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLES = """\
examples:
  unclip evaluate prior/ar_tiny
  unclip evaluate prior/ar_tiny prior/diffusion_tiny --n 1000 --out priors.md
  unclip evaluate runs/quickstart/prior --json
"""


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the command."""
    p = commands.add_parser(
        "evaluate",
        help="measure trained priors, side by side",
        description="Draws an image embedding for each held-out caption and compares it with the "
        "true one.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("prior", nargs="+", help="experiment with a finished run, run, or artifact")
    p.add_argument("--n", type=int, default=1000, help="held-out samples (default 1000)")
    p.add_argument("--batch", type=int, default=100, help="captions at a time (default 100)")
    p.add_argument("--seed", type=int, default=0, help="of the sampling")
    p.add_argument("--steps", help="of diffusion priors, instead of their own sampler.steps")
    p.add_argument("--clip", help="artifact or open_clip:ARCH/TAG, where the CLIP has moved")
    p.add_argument("--data", metavar="SOURCE", help="data.source, instead of the prior's own")
    p.add_argument("--json", action="store_true", help="machine-readable")
    p.add_argument("--out", type=Path, help="also write the table as Markdown")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Measure each, print one table."""
    from unclip.types import UserError

    if args.n < 2 or args.batch < 1:
        raise UserError("--n must be at least 2 and --batch at least 1")
    from unclip.evaluation.priors import as_json, markdown, show
    from unclip.trained_priors import evaluate_prior

    rows = [
        evaluate_prior(
            name,
            n=args.n,
            batch=args.batch,
            seed=args.seed,
            steps=args.steps,
            clip=args.clip,
            source=args.data,
        )
        for name in args.prior
    ]
    print(as_json(rows)) if args.json else show(rows)
    if args.out:
        args.out.write_text(markdown(rows), encoding="utf-8")
