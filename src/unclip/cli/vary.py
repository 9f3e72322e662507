"""`unclip vary`: variations of images."""

from __future__ import annotations

import argparse
from itertools import chain
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
from unclip.common.seeds import seeds_from
from unclip.common.terminal import say

EXAMPLES = """\
examples:
  unclip vary photo.jpg --n 8
  unclip vary a.png b.png --eta 0.5 --n 4 --out varied
  unclip vary photo.jpg --eta 0 --n 1       the reconstruction
"""


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the command."""
    p = commands.add_parser(
        "vary",
        help="sample variations of images",
        description="Keeps what CLIP sees in an image (z_i) and draws the rest again, the more "
        "freely the higher --eta is; 0 reconstructs. Writes a PNG per variation and vary.png, "
        "with the originals beside their variations.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("image", nargs="+", type=Path, help="image files")
    p.add_argument("--eta", type=float, default=1.0, help="DDIM's η, in [0, 1] (default 1)")
    p.add_argument("--n", type=int, default=8, help="variations of each image (default 8)")
    add_manipulation(p)
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Read, vary, write."""
    check_count(args.n, len(args.image))
    settings, names = settings_of(args), image_files.names(args.image)
    seeds = seeds_from(args.seed, args.n, "--seed")
    files = [[f"{name}_seed{seed}.png" for seed in seeds] for name in names]
    out = Outputs(args.out, [*chain(*files), "vary.png"], force=args.force, inputs=args.image)
    from unclip.pipeline.record import Recorder

    images = [image_files.read(path) for path in args.image]
    read = image_files.sha256s(args.image)
    pipeline = open_pipeline(args)
    with step_bar() as progress:
        found = pipeline.vary(images, args.eta, seeds, settings=settings, progress=progress)
    recorder = Recorder(pipeline.cascade, settings, "vary", eta=args.eta, **inversion_of(settings))
    records = [[recorder(images=[own], seed=seed) for seed in seeds] for own in read]
    figure = image_files.write(
        out,
        "vary.png",
        [[each] for each in images],
        found.image,
        files=files,
        records=records,
        rows=names,
        columns=["original", *(f"seed {seed}" for seed in seeds)],
    )
    say(figure)
