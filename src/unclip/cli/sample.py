"""`unclip sample`: images from captions."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from unclip.cli.image_files import slug
from unclip.cli.sampling_options import (
    add_output,
    add_pipeline,
    add_sampling,
    note_long,
    open_pipeline,
    settings_of,
)
from unclip.common.errors import UserError

EXAMPLES = """\
examples:
  unclip sample "a red circle above a blue square" --n 8
  unclip sample --captions captions.txt --pipeline runs/quickstart --out samples
  unclip sample "a large green star" decoder.guidance=3 decoder.steps=50 --seed 7
"""


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the command."""
    p = commands.add_parser(
        "sample",
        help="sample images from captions",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("caption", nargs="*", help="one or more captions")
    p.add_argument("--captions", type=Path, metavar="FILE", help="more captions, one a line")
    p.add_argument("--n", type=int, default=1, help="images per caption (default 1)")
    add_output(p)
    add_pipeline(p)
    add_sampling(p)
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Write a PNG per image, a labelled grid, and samples.jsonl."""
    captions = _captions(args)
    if args.n < 1 or args.batch < 1:
        raise UserError("--n and --batch must be at least 1")
    from tqdm import tqdm

    from unclip.common.images import grid, save, to_uint8
    from unclip.common.progress import bar_interval

    pipeline = open_pipeline(args)
    settings = settings_of(args)
    pairs = [(c, args.seed + k) for c in captions for k in range(args.n)]
    images, rows = [], []
    note_long(pipeline, captions)
    with tqdm(total=len(pairs), unit="image", mininterval=bar_interval()) as bar:
        for first in range(0, len(pairs), args.batch):
            chunk = pairs[first : first + args.batch]
            found = pipeline.generate(
                [c for c, _ in chunk],
                [s for _, s in chunk],
                settings=settings,
                progress=lambda done, total: bar.set_postfix_str(
                    f"step {done}/{total}", refresh=sys.stderr.isatty()
                ),
            )
            for (caption, seed), image in zip(chunk, to_uint8(found.image)):
                name = f"{slug(caption)}_seed{seed}.png"
                save(image, args.out / name)
                images.append(image)
                rows.append({"file": name, "caption": caption, "seed": seed})
            bar.update(len(chunk))
    with (args.out / "samples.jsonl").open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    labels = [f"{row['caption']} ({row['seed']})" for row in rows]
    columns = args.n if args.n > 1 else 8
    print(save(grid(images, labels, columns=columns), args.out / "grid.png"))


def _captions(args: argparse.Namespace) -> list[str]:
    captions = list(args.caption)
    if args.captions is not None:
        try:
            captions += args.captions.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--captions {args.captions}: cannot be read: {error}") from None
    captions = [c.strip() for c in captions if c.strip()]
    if not captions:
        raise UserError('no caption: give one, as `unclip sample "a red circle"`, or --captions')
    return captions
