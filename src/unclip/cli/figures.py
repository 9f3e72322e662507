"""`unclip figures`: all of the paper's figures from a trained cascade, as one page."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from unclip.cli import image_files
from unclip.cli.command_parser import seed
from unclip.cli.outputs import numbered_folder, writing
from unclip.cli.sampling_options import (
    PIPELINE,
    add_adapter,
    add_device,
    add_force,
    add_sampling,
    open_pipeline,
    settings_of,
    step_bar,
)
from unclip.common.terminal import say

EXAMPLES = """\
examples:
  unclip figures runs/quickstart
  unclip figures runs/quickstart --ar-prior runs/ar_prior --seed 1 --out figures
  unclip figures runs/mine --images a.jpg b.jpg c.jpg d.jpg
"""
IMAGES = 4


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the command."""
    p = commands.add_parser(
        "figures",
        help="make the paper's figures from a trained cascade",
        description="Draws the counterparts of figures 3 to 9, 14 and 15 and writes index.html "
        "with all of them in it, and a PNG of each. What a missing part prevents is left out, and "
        "the page says why.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "pipeline",
        nargs="?",
        metavar="DIR",
        default="runs/quickstart",
        help=PIPELINE,
    )
    p.add_argument(
        "--out", type=Path, help="folder (default DIR/figures; where DIR is not a folder, figures)"
    )
    p.add_argument(
        "--images",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="images to start from, instead of held-out scenes; figures 5 and 6 need scenes",
    )
    p.add_argument("--ar-prior", type=Path, help="artifact (default DIR/ar_prior if there is one)")
    p.add_argument("--seed", type=seed, default=0, help="of scenes, captions and noise (default 0)")
    p.add_argument("--batch", type=int, default=16, help="images at a time (default 16)")
    add_device(p)
    add_adapter(p)
    add_force(p)
    add_sampling(p, keep_sampler=("decoder",))
    p.set_defaults(run=run, clip=None, prior=None, decoder=None, upsampler=None)


def run(args: argparse.Namespace) -> None:
    """Open, draw, write."""
    settings = settings_of(args)
    named = args.pipeline
    # Nothing is added to a bundle, nor to the cache.
    beside = Path(named) if Path(named).is_dir() else Path()
    out = numbered_folder(args.out or beside / "figures", "index.html", force=args.force)
    photos = [image_files.read(path) for path in args.images]
    pipeline = open_pipeline(args)
    from unclip.evaluation.figures.drawings import FigureInputs
    from unclip.evaluation.figures.page import write_figures
    from unclip.evaluation.probes.conditioning import find_ar_prior
    from unclip.evaluation.probes.prompts import (
        held_out_scenes,
        images_of,
        trained_scenes,
        warnings,
    )

    decoder = args.pipeline / "decoder"
    kinds = trained_scenes(decoder)
    scenes = [] if photos else held_out_scenes(IMAGES, args.seed, kinds)
    common = ["--pipeline", named, "--seed", str(args.seed), *args.sampler_words]
    notes = warnings(decoder)
    with step_bar() as progress:
        studio = FigureInputs(
            pipeline,
            photos or images_of(scenes),
            scenes,
            kinds.shapes,
            find_ar_prior(args.pipeline, args.ar_prior, pipeline),
            args.seed,
            settings,
            progress,
        )
        with writing(out):
            page = write_figures(
                studio,
                out,
                command=f"unclip {shlex.join(sys.argv[1:])}",
                common=common,
                notes=notes,
            )
    for note in notes:
        say(f"unclip: note: {note}", error=True)
    say(page)
