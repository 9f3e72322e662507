"""`unclip edit`: images changed by the difference of two captions."""

from __future__ import annotations

import argparse
from itertools import chain
from pathlib import Path

from unclip.cli import image_files
from unclip.cli.command_parser import STAGES
from unclip.cli.outputs import Outputs, unique
from unclip.cli.sampling_options import (
    add_manipulation,
    check_count,
    inversion_of,
    note_long,
    open_pipeline,
    settings_of,
    step_bar,
)
from unclip.common.blank import is_blank
from unclip.common.checks import require
from unclip.common.errors import UserError
from unclip.common.terminal import say

EXAMPLES = """\
examples:
  unclip edit circle.png --from "a red circle" --to "a blue circle"
  unclip edit photo.jpg --from "a photo" --to "a photo in winter" --theta 0.5 --n 6
  unclip edit a.png b.png --to "a blue circle"       towards the caption itself
  unclip edit circle.png --from "a red circle" --to "a blue circle" --direction prior
"""


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the command."""
    p = commands.add_parser(
        "edit",
        help="change images by the difference of two captions",
        description="Moves what CLIP sees (z_i) towards the difference of two captions and keeps "
        "everything else (x_T). Writes n PNGs per image, from theta 0, the reconstruction, to "
        "--theta, and edit.png.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("image", nargs="+", type=Path, help="image files")
    p.add_argument("--to", required=True, metavar="CAPTION", help="what the result should show")
    p.add_argument(
        "--from",
        dest="source",
        metavar="CAPTION",
        help="what they show, or a placeholder such as 'a photo'; without it z_i moves towards the "
        "caption --to itself",
    )
    p.add_argument(
        "--theta",
        type=float,
        help="how far, in [0, 1] (default 0.4, in the paper 0.25 to 0.5; with --direction prior 1)",
    )
    p.add_argument(
        "--direction",
        choices=["text", "prior"],
        default="text",
        help="text, the paper's way: by the difference of the captions' embeddings; prior: by that "
        "of what the prior draws for them, which keeps more of the image",
    )
    p.add_argument("--n", type=int, default=5, help="images of each, theta from 0 (default 5)")
    add_manipulation(p, guidance="1", stages=STAGES)
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Read, turn, write."""
    from unclip.pipeline.manipulations import DIRECTIONS
    from unclip.pipeline.record import Recorder

    theta = DIRECTIONS[args.direction] if args.theta is None else args.theta
    require(0 <= theta <= 1, "--theta", f"{theta} must be in [0, 1]; the paper's are 0.25 to 0.5")
    captions = [args.to] if args.source is None else [args.to, args.source]
    require(not any(map(is_blank, captions)), "--from, --to", "a caption is empty; give words")
    check_count(args.n, len(args.image), least=2)  # theta goes from 0 to --theta
    if args.direction != "prior" and (key := settings_of(args).first_of("prior")):
        raise UserError(f"{key}: only `--direction prior` uses the prior")
    settings, names = settings_of(args).unguided(), image_files.names(args.image)
    digits = 2 if theta >= 0.01 * (args.n - 1) else 6
    thetas = [f"{theta * k / (args.n - 1):.{digits}f}" for k in range(args.n)]
    files = [[f"{each}.png" for each in unique([f"{n}_theta{t}" for t in thetas])] for n in names]
    out = Outputs(args.out, [*chain(*files), "edit.png"], force=args.force, inputs=args.image)
    images = [image_files.read(path) for path in args.image]
    read = image_files.sha256s(args.image)
    pipeline = open_pipeline(args)
    note_long(pipeline, captions)
    with step_bar() as progress:
        found = pipeline.text_diff(
            images,
            args.source,
            args.to,
            theta,
            args.n,
            direction=args.direction,
            seed=args.seed,
            settings=settings,
            progress=progress,
        )
    recorder = Recorder(
        pipeline.cascade,
        settings,
        "edit",
        source=args.source,
        target=args.to,
        direction=args.direction,
        seed=args.seed,
        **inversion_of(settings),
    )
    records = [
        [recorder(images=[own], theta=theta * k / (args.n - 1)) for k in range(args.n)]
        for own in read
    ]
    figure = image_files.write(
        out,
        "edit.png",
        [[each] for each in images],
        found.image,
        files=files,
        records=records,
        rows=[f"{name}: {args.source or ''} to {args.to}" for name in names],
        columns=["original", *(f"theta {theta}" for theta in thetas)],
    )
    say(figure)
