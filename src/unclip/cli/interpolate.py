"""`unclip interpolate`: images between two."""

from __future__ import annotations

import argparse
from pathlib import Path

from unclip.cli import image_files
from unclip.cli.outputs import Outputs
from unclip.cli.sampling_options import (
    add_manipulation,
    check_count,
    inversion_of,
    open_pipeline,
    settings_of,
    step_bar,
)
from unclip.common.terminal import say

EXAMPLES = """\
examples:
  unclip interpolate a.png b.png --n 8
  unclip interpolate a.png b.png --noise fixed --seed 3 --out between
"""


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the command."""
    p = commands.add_parser(
        "interpolate",
        help="interpolate between two images",
        description="Moves what CLIP sees (z_i) from one image to the other along a great "
        "circle. With --noise slerp everything else (x_T) is interpolated too, and the ends are "
        "the two images; with fixed it is one random draw. Writes n PNGs, the ends included, and "
        "interpolate.png.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("a", type=Path, help="image file to start from")
    p.add_argument("b", type=Path, help="image file to end at")
    p.add_argument("--n", type=int, default=8, help="images, ends included (default 8)")
    p.add_argument("--noise", choices=["slerp", "fixed"], default="slerp", help="default slerp")
    add_manipulation(p)
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Read, interpolate, write."""
    check_count(args.n, least=2)  # the two ends
    settings = settings_of(args)
    one, other = image_files.names([args.a, args.b])
    files = [f"{one}_{other}_{k:02d}.png" for k in range(args.n)]
    out = Outputs(args.out, [*files, "interpolate.png"], force=args.force, inputs=[args.a, args.b])
    from unclip.pipeline.record import Recorder

    a, b = image_files.read(args.a), image_files.read(args.b)
    read = image_files.sha256s([args.a, args.b])
    pipeline = open_pipeline(args)
    with step_bar() as progress:
        found = pipeline.interpolate(
            a, b, args.n, noise=args.noise, seed=args.seed, settings=settings, progress=progress
        )
    recorder = Recorder(
        pipeline.cascade,
        settings,
        "interpolate",
        images=read,
        noise=args.noise,
        seed=args.seed,
        **inversion_of(settings),
    )
    figure = image_files.write(
        out,
        "interpolate.png",
        [[a, b]],
        found.image,
        files=[files],
        records=[[recorder(at=k / (args.n - 1)) for k in range(args.n)]],
        rows=[f"noise: {args.noise}"],
        columns=[one, *(f"{k / (args.n - 1):.2f}" for k in range(args.n)), other],
        last=True,
    )
    say(figure)
