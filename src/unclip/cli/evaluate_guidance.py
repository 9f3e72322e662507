"""`unclip evaluate guidance`: quality and diversity against the guidance scale."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from unclip.cli.command_parser import CommandParser
from unclip.cli.evaluate_cascade import (
    add_protocol,
    check_protocol,
    config_of,
    measuring_of,
    protocol_of,
    show_sections,
)
from unclip.cli.image_files import slug
from unclip.cli.outputs import unique
from unclip.cli.sampling_options import check_pipeline, open_pipeline, settings_of
from unclip.common.checks import require
from unclip.common.errors import UserError

if TYPE_CHECKING:
    from unclip.pipeline.pipeline import Pipeline
    from unclip.runs.evaluate_guidance import Cascade

SCALES = (1.0, 1.25, 1.5, 2.0, 3.0, 4.0)
EXAMPLES = """\
examples:
  unclip evaluate guidance mine glide --protocol coco30k --annotations captions_val2014.json \\
      --images val2014 --limit 10000 --features inception clip:ViT-L-14/openai --probe aesthetics \\
      --scales 1 1.25 1.5 2 3 4 --out guidance --devices 8
  unclip evaluate guidance runs/quickstart --protocol scenes --features own:runs/quickstart \\
      --scales 1 2 4 --steps 8 16 --out guidance

A run that was stopped is resumed by the same command; more --scales sample what is missing.
"""


def guidance_parser() -> CommandParser:
    """Of `unclip evaluate guidance`."""
    p = CommandParser(
        prog="unclip evaluate guidance",
        description="Samples the same captions and seeds at several guidance scales of the "
        "decoder, of an unCLIP and of others, as a decoder of captions alone (the paper's figures "
        "9 to 12): distance, recall and predicted aesthetics against the scale, with intervals.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_protocol(p, several=True)
    p.add_argument(
        "--scales",
        type=float,
        nargs="+",
        default=list(SCALES),
        help="of the decoder's guidance (default 1 1.25 1.5 2 3 4)",
    )
    p.add_argument("--steps", type=int, nargs="+", default=[], help="of the decoder: a line each")
    p.set_defaults(run=run)
    return p


def run(args: argparse.Namespace) -> None:
    """Sample, measure, and show the tables."""
    check_protocol(args)
    require(all(0 < s <= 100 for s in args.scales), "--scales", "must each be in (0, 100]")
    require(all(count >= 1 for count in args.steps), "--steps", "must each be at least 1")
    for option in ("scales", "steps"):
        values = [f"{value:g}" for value in getattr(args, option)]  # as their folders are named
        if len(set(values)) < len(values):
            raise UserError(f"--{option}: one is given twice, to six digits")
    settings = settings_of(args)
    decoder = settings.changes.get("decoder", {})
    for name, option, given in (("guidance", "scales", True), ("steps", "steps", args.steps)):
        if name in decoder and given:
            raise UserError(f"decoder.{name}: is set by --{option}; leave it out")
    for name in args.cascade:  # before the first is sampled
        check_pipeline(name)
    from unclip.runs.evaluate_guidance import evaluate_guidance

    titles = unique([slug(Path(name).resolve().name) for name in args.cascade])
    sections = evaluate_guidance(
        [_cascade(args, title, name) for title, name in zip(titles, args.cascade)],
        protocol_of(args, args.cascade[0]),
        args.out,
        scales=sorted(args.scales),
        steps=sorted(args.steps),
        measuring=measuring_of(args),
        config=config_of(args),
        settings=settings,
        force=args.force,
    )
    show_sections(sections, args.out)


def _cascade(args: argparse.Namespace, title: str, name: str) -> Cascade:
    from unclip.runs.evaluate_guidance import Cascade

    def opened(device: str) -> Pipeline:
        own = argparse.Namespace(**{**vars(args), "pipeline": name, "device": device})
        return open_pipeline(own)

    return Cascade(title, opened)
