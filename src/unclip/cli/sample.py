"""`unclip sample`: images from captions."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unclip.cli.image_files import slug
from unclip.cli.outputs import Outputs, unique, writing
from unclip.cli.sampling_options import (
    add_output,
    add_pipeline,
    add_sampling,
    check_count,
    check_names,
    note_long,
    open_pipeline,
    settings_of,
)
from unclip.common.blank import is_blank
from unclip.common.counted import counted
from unclip.common.errors import UserError
from unclip.common.seeds import seeds_from
from unclip.common.terminal import say

if TYPE_CHECKING:
    from unclip.data.readers.captions import Caption
    from unclip.pipeline.pipeline import Pipeline
    from unclip.pipeline.record import Recipe

EXAMPLES = """\
examples:
  unclip sample "a red circle above a blue square" --n 8
  unclip sample --captions captions.txt --pipeline runs/quickstart --out samples
  unclip sample "a red circle" --pipeline cascade.zip   (a bundle of `unclip share`)
  unclip sample "a large green star" decoder.guidance=3 decoder.steps=50 --seed 7
  unclip sample --like samples/a-red-circle_seed7.png --pipeline runs/quickstart
  unclip sample --captions captions_val2014.json --limit 30000 --devices 8 --out coco
  torchrun --nnodes 4 --nproc-per-node 8 ... -m unclip sample --captions captions.csv --out many

With --devices, or under torchrun, a run that was stopped is resumed by the same command.
"""
MANY = ("devices", "nodes", "format", "shard_size", "limit", "keep_z_i")
MOST = 100_000_000  # images of a call that does not hold them


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the command."""
    p = commands.add_parser(
        "sample",
        help="sample images from captions",
        description="Writes one PNG per caption and seed, a labelled grid of them, and "
        "samples.jsonl, which says which caption and seed each file is of. With --devices: many "
        "images in shards, by several processes.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("caption", nargs="*", help="one or more captions")
    p.add_argument(
        "--captions",
        type=Path,
        metavar="FILE",
        help="more captions: one per line; .csv, .tsv, .jsonl, .json or .parquet with a column "
        "caption; or annotations of COCO",
    )
    p.add_argument(
        "--like",
        type=Path,
        metavar="FILE",
        help="repeat an image that unclip sampled, by what its PNG says: caption, seed, settings "
        "and precision; options that you give win",
    )
    p.add_argument("--n", type=int, default=1, help="images per caption (default 1)")
    add_output(p)
    add_pipeline(p)
    many = p.add_argument_group(
        "many images",
        "With any of these, or under torchrun, images go into shards with a manifest and no grid;\n"
        "image k of the list has the seed --seed + k.",
    )
    many.add_argument("--devices", type=int, help="processes per machine, a GPU or CPU core each")
    many.add_argument("--nodes", type=int, help="machines, where torchrun or srun started them")
    many.add_argument("--format", help="png (default), or tar in webdataset's form")
    many.add_argument("--shard-size", type=int, help="images per shard (default 256)")
    many.add_argument("--limit", type=int, help="this many of the captions, chosen at random")
    many.add_argument(
        "--keep-z-i",
        action="store_true",
        default=None,
        help="with --format tar: put the z_i that an image was drawn from into its .json; stages "
        "that train on the images then take it instead of encoding them",
    )
    add_sampling(p)
    p.set_defaults(run=run, seed=None)


def run(args: argparse.Namespace) -> None:
    """Sample one grid of images, or many in shards."""
    recipe = _recipe(args)
    check_names(args)
    captions = _captions(args)
    args.seed = args.seed or 0
    many = {name: getattr(args, name) for name in MANY if getattr(args, name) is not None}
    if many or _by_torchrun():
        check_count(args.n, len(captions), most=MOST)
        _sample_many(args, captions, many)
    else:
        check_count(args.n, len(captions))
        _sample_few(args, [caption.text for caption in captions], recipe)


def _by_torchrun() -> bool:
    return int(os.environ.get("WORLD_SIZE", 1)) > 1


def _sample_many(args: argparse.Namespace, captions: list[Caption], many: dict[str, Any]) -> None:
    from unclip.runs.sample_captions import sample_captions
    from unclip.runs.sample_plan import SampleConfig

    own = {
        name: getattr(args, name)
        for name in ("n", "seed", "device", "precision", "offload", "compile")
    }
    config = SampleConfig(**many, **own)

    def opened(device: str) -> Pipeline:
        args.device = device
        return open_pipeline(args)

    out = args.out
    settings = settings_of(args)
    manifest = sample_captions(opened, captions, out, config, settings=settings, force=args.force)
    if manifest is not None:
        say(
            f"{out}: {counted(manifest['images'], 'image')} in "
            f"{counted(len(manifest['shards']), 'shard')}"
        )


def _recipe(args: argparse.Namespace) -> Recipe | None:
    """What --like says, put into ``args`` where nothing else was given."""
    if args.like is None:
        return None
    given = [name for name in ("captions", *MANY) if getattr(args, name) is not None]
    given += [name for name, there in (("fast", args.fast), ("torchrun", _by_torchrun())) if there]
    if given:
        option = given[0] if given[0] == "torchrun" else "--" + given[0].replace("_", "-")
        raise UserError(f"--like: repeats one image as it was sampled; leave out {option}")
    from unclip.pipeline.record import read_recipe

    recipe = read_recipe(args.like)
    args.caption = args.caption or [recipe.caption]
    args.seed = recipe.seed if args.seed is None else args.seed
    args.precision = recipe.precision if args.precision == "auto" else args.precision
    return recipe


def _sample_few(args: argparse.Namespace, captions: list[str], recipe: Recipe | None) -> None:
    """Write a PNG per image, a labelled grid, and samples.jsonl."""
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
    from unclip.pipeline.pipeline import Pipeline
    from unclip.pipeline.record import SAMPLE, Recorder
    from unclip.pipeline.sampling import Sampling

    pipeline = open_pipeline(args)
    if recipe is not None:
        pipeline = Pipeline(recipe.applied(pipeline.cascade))
    Sampling(pipeline.cascade, settings, None)  # refuses what does not fit before any bar is shown
    recorder = Recorder(pipeline.cascade, settings, SAMPLE)
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
            for name, (caption, seed), image in zip(names[first:], chunk, to_uint8(found.image)):
                save(image, out.path(name), recorder(caption=caption, seed=seed))
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


def _captions(args: argparse.Namespace) -> list[Caption]:
    from unclip.data.readers.captions import number_captions, read_captions

    if any(map(is_blank, args.caption)):
        raise UserError("caption: one is empty; give words")
    words = [caption.strip() for caption in args.caption]
    for caption in words:
        try:
            caption.encode()
        except UnicodeEncodeError:
            raise UserError(f"caption {caption!r}: is not UTF-8 text") from None
    listed = [] if args.captions is None else read_captions(args.captions)
    if not words:
        found = listed
    else:
        found = number_captions([*words, *(caption.text for caption in listed)])
    if not found:
        raise UserError('no caption: give one, as `unclip sample "a red circle"`, or --captions')
    return found
