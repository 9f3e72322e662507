"""`unclip sample`: images from captions."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from unclip.cli.image_files import slug
from unclip.cli.outputs import Outputs, unique, writing
from unclip.cli.sampling_options import (
    add_output,
    add_pipeline,
    add_sampling,
    check_count,
    note_long,
    open_pipeline,
    settings_of,
)
from unclip.common.blank import is_blank
from unclip.common.errors import UserError
from unclip.common.seeds import seeds_from
from unclip.common.terminal import say

EXAMPLES = """\
examples:
  unclip sample "a red circle above a blue square" --n 8
  unclip sample --captions captions.txt --pipeline runs/quickstart --out samples
  unclip sample "a red circle" --pipeline cascade.zip   (a bundle of `unclip share`)
  unclip sample "a large green star" decoder.guidance=3 decoder.steps=50 --seed 7
"""


MOST_BYTES = 16 << 20  # of a captions file


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the command."""
    p = commands.add_parser(
        "sample",
        help="sample images from captions",
        description="Writes one PNG per caption and seed, a labelled grid of them, and "
        "samples.jsonl, which says which caption and seed each file is of.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("caption", nargs="*", help="one or more captions")
    p.add_argument("--captions", type=Path, metavar="FILE", help="more captions, one per line")
    p.add_argument("--n", type=int, default=1, help="images per caption (default 1)")
    add_output(p)
    add_pipeline(p)
    add_sampling(p)
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Write a PNG per image, a labelled grid, and samples.jsonl."""
    captions = _captions(args)
    check_count(args.n, len(captions))
    settings = settings_of(args)
    different = list(dict.fromkeys(captions))
    stems = dict(zip(different, unique([slug(caption) for caption in different])))
    seeds = seeds_from(args.seed, args.n, "--seed")
    pairs = [(caption, seed) for caption in captions for seed in seeds]
    names = [f"{stems[caption]}_seed{seed}.png" for caption, seed in pairs]
    out = Outputs(args.out, [*names, "samples.jsonl", "grid.png"], force=args.force)
    from tqdm import tqdm

    from unclip.common.atomic import atomic_write
    from unclip.common.images import grid, save, to_uint8
    from unclip.common.progress import bar_interval
    from unclip.pipeline.sampling import Sampling

    pipeline = open_pipeline(args)
    Sampling(pipeline.cascade, settings, None)  # refuses what does not fit before any bar is shown
    images: list = []
    note_long(pipeline, captions)
    with (
        tqdm(total=len(pairs), unit="image", mininterval=bar_interval()) as bar,
        writing(args.out),
    ):
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
            for name, image in zip(names[first:], to_uint8(found.image)):
                save(image, out.path(name))
                images.append(image)
            bar.update(len(chunk))
        rows = [
            {"file": out.path(name).name, "caption": caption, "seed": seed}
            for name, (caption, seed) in zip(names, pairs)
        ]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        with atomic_write(out.path("samples.jsonl")) as scratch:
            scratch.write_text(text, encoding="utf-8")
        labels = [f"{caption} ({seed})" for caption, seed in pairs]
        columns = args.n if args.n > 1 else 8
        say(save(grid(images, labels, columns=columns), out.path("grid.png")))


def _captions(args: argparse.Namespace) -> list[str]:
    if any(map(is_blank, args.caption)):
        raise UserError("caption: one is empty; give words")
    captions = [caption.strip() for caption in args.caption]
    if args.captions is not None:
        captions += [
            line.strip() for line in _text(args.captions).splitlines() if not is_blank(line)
        ]
    if not captions:
        raise UserError('no caption: give one, as `unclip sample "a red circle"`, or --captions')
    for caption in captions:
        try:
            caption.encode()
        except UnicodeEncodeError:
            raise UserError(f"caption {caption!r}: is not UTF-8 text") from None
    return captions


def _text(path: Path) -> str:
    """The text of a captions file, of which no more than `MOST_BYTES` are read."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise UserError(f"--captions {path}: cannot be read: {error.strerror or error}") from None
    if len(data) > MOST_BYTES:
        raise UserError(f"--captions {path}: is larger than {MOST_BYTES >> 20} MiB; split it")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"--captions {path}: is not UTF-8 text; save it as UTF-8") from None
