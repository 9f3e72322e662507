"""`unclip fit-variance`: what the Analytic-DPM samplers need to know of a diffusion prior."""

from __future__ import annotations

import argparse
from pathlib import Path

from unclip.cli.outputs import check_folder
from unclip.cli.sampling_options import add_allow_source, add_precision, check_data
from unclip.common.terminal import say

EXAMPLES = """\
examples:
  unclip fit-variance runs/quickstart/prior
  unclip fit-variance runs/quickstart/prior --steps 16 --steps 64 --samples 10000
  unclip sample "a red circle" prior.sampler=analytic prior.steps=64
"""


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the command."""
    p = commands.add_parser(
        "fit-variance",
        help="fit the variances of Analytic-DPM to a diffusion prior",
        description="Measures the error of x_0 at every timestep that will be sampled, with the "
        "EMA weights and the captions of the training data, and writes it into the artifact.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("prior", type=Path, help="artifact of a diffusion prior, or its run")
    p.add_argument(
        "--steps",
        action="append",
        help="as sampler.steps; repeatable (default: those of the prior)",
    )
    p.add_argument("--samples", type=int, default=2048, help="training samples (default 2048)")
    p.add_argument("--clip", help="artifact or open_clip:ARCH/TAG, if the CLIP is elsewhere now")
    p.add_argument("--data", metavar="SOURCE", help="data.source, if the data is elsewhere now")
    add_precision(p)
    add_allow_source(p)
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Fit, store, and print the errors at both ends."""
    from unclip.common import artifacts
    from unclip.common.errors import UserError

    if args.samples < 1:
        raise UserError(f"--samples {args.samples}: must be at least 1")
    check_folder(artifacts.describe(args.prior, key="prior").path, "prior")
    check_data(args.prior, args)
    from unclip.evaluation.protocols.priors import fit_variance

    for line in fit_variance(
        args.prior,
        steps=args.steps,
        samples=args.samples,
        clip=args.clip,
        source=args.data,
        precision=args.precision,
    ):
        say(line)
