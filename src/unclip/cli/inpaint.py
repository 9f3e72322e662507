"""`unclip inpaint`: a part of an image redrawn."""

from __future__ import annotations

import argparse
from pathlib import Path

from unclip.cli import image_files
from unclip.cli.outputs import Outputs
from unclip.cli.sampling_options import (
    add_output,
    add_pipeline,
    add_sampling,
    check_count,
    note_long,
    open_pipeline,
    settings_of,
    step_bar,
)
from unclip.common.blank import is_blank
from unclip.common.checks import require
from unclip.common.seeds import seeds_from
from unclip.common.terminal import say

EXAMPLES = """\
examples:
  unclip inpaint photo.jpg --mask mask.png --caption "a dog on a beach"
  unclip inpaint photo.jpg --mask mask.png --caption "an empty beach" --n 4 --resample 10
"""


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the command."""
    p = commands.add_parser(
        "inpaint",
        help="redraw part of an image from a caption",
        description="White in the mask is kept and black is redrawn; of a mask with an alpha "
        "channel the opaque part is kept and the transparent part redrawn. The caption describes "
        "the whole image. Writes a PNG per seed and inpaint.png.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("image", type=Path, help="image file")
    p.add_argument("--mask", required=True, type=Path, help="image file of the same size")
    p.add_argument("--caption", required=True, help="of the whole image")
    p.add_argument("--n", type=int, default=4, help="images, of successive seeds (default 4)")
    p.add_argument(
        "--resample",
        type=int,
        help="passes of each noise level by RePaint (default 5; none with a decoder that was "
        "trained to inpaint)",
    )
    add_output(p)
    add_pipeline(p)
    add_sampling(p, keep_sampler=("decoder",))
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Read, fill, write."""
    require(not is_blank(args.caption), "--caption", "is empty; say what the image is to show")
    check_count(args.n)
    settings = settings_of(args)
    seeds = seeds_from(args.seed, args.n, "--seed")
    (name,) = image_files.names([args.image])
    files = [f"{name}_seed{seed}.png" for seed in seeds]
    inputs = [args.image, args.mask]
    out = Outputs(args.out, [*files, "inpaint.png"], force=args.force, inputs=inputs)
    photo = image_files.read(args.image)
    keep = image_files.read_mask(args.mask)
    read = image_files.sha256s(inputs)
    if keep.shape != photo.shape[:2]:
        sizes = [f"{x.shape[1]}x{x.shape[0]}" for x in (keep, photo)]
        require(False, "--mask", f"{args.mask} is {sizes[0]} pixels, {args.image} {sizes[1]}")
    require(not keep.all(), "--mask", f"{args.mask} keeps everything; paint the hole black")
    from unclip.pipeline.inpainting import kept_pixels
    from unclip.pipeline.record import Recorder

    require(
        not kept_pixels(keep, min(keep.shape)).all(),
        "--mask",
        f"{args.mask}: the hole lies outside the middle square, which is all that is drawn; crop "
        "image and mask around it",
    )
    pipeline = open_pipeline(args)
    note_long(pipeline, [args.caption])
    with step_bar() as progress:
        found = pipeline.inpaint(
            [photo] * args.n,
            [keep] * args.n,
            [args.caption] * args.n,
            seeds,
            resample=args.resample,
            settings=settings,
            progress=progress,
        )
    recorder = Recorder(
        pipeline.cascade,
        settings,
        "inpaint",
        images=read,
        caption=args.caption,
        resample=args.resample,
    )
    hole = photo.copy()
    hole[~keep] = (255, 0, 255)  # a colour that few images have
    figure = image_files.write(
        out,
        "inpaint.png",
        [[photo, hole]],
        found.image[None],
        files=[files],
        records=[[recorder(seed=seed) for seed in seeds]],
        rows=[args.caption],
        columns=["original", "kept", *(f"seed {seed}" for seed in seeds)],
    )
    say(figure)
