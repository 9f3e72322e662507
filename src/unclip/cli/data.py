"""`unclip data`: inspect a source before training on it, index it, pack it, caption its images."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from unclip.cli import caption
from unclip.cli.outputs import check_folder, numbered_folder, writing
from unclip.cli.sampling_options import add_force
from unclip.common.terminal import say

if TYPE_CHECKING:
    from PIL import Image

    from unclip.data.config import DataConfig, OnError
    from unclip.data.readers.source import Source

INSPECT = """\
  unclip data inspect photos/ --out inspected
  unclip data inspect laion/00000.tar --limit 2000 --clip open_clip:ViT-L-14/openai
  unclip data inspect scenes --limit 200 --json
"""
INDEX = """\
  unclip data index "s3://bucket/laion/{00000..00999}.tar"
  unclip data index packed/ --beside
"""
PACK = """\
  unclip data pack photos/ --out packed
  unclip data pack photos/ --out packed-512 --format parquet --max-side 512 --shard-size 5000
"""
SOURCE = "a folder, tars, parquet, CSV, JSONL, COCO, hf:NAME or scenes: what data.source takes"


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the command and its verbs."""
    p = commands.add_parser(
        "data",
        help="inspect a source of data, index its tars, pack it into shards, or caption it",
        description="A source is what data.source names in an experiment: a folder of images and "
        "captions, tars, parquet, a listing, a dataset of the Hugging Face Hub, or the built-in "
        "scenes. `unclip data VERB --help` explains a verb.",
        epilog=f"examples:\n{INSPECT}{INDEX}{PACK}{caption.EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = p.add_subparsers(title="verbs", required=True, metavar="VERB")
    _add_inspect(verbs)
    _add_index(verbs)
    _add_pack(verbs)
    caption.add(verbs)


def _add_inspect(verbs: argparse._SubParsersAction) -> None:
    p = verbs.add_parser(
        "inspect",
        help="read every sample; count what is good, damaged, blank or duplicate",
        description="Reads every sample of a source and prints a table: sizes, captions and their "
        "tokens, unreadable samples, near-blank images (no channel deviates by 3 levels of 255) "
        "and images that look alike (64-bit perceptual hashes). With --out a folder "
        "gets contact_sheet.png, report.json and, if anything was found, suspects.png.",
        epilog=f"examples:\n{INSPECT}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_common(p)
    p.add_argument("--limit", type=int, metavar="N", help="read only N samples, evenly spread")
    p.add_argument(
        "--clip", help="CLIP that captions must fit: artifact, open_clip:ARCH/TAG or clip/NAME"
    )
    p.add_argument("--context", type=int, help="tokens that captions must fit (default 77)")
    p.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder for the report and the sheets (default: none is written)",
    )
    p.add_argument("--json", action="store_true", help="print the report as JSON, nothing else")
    add_force(p)
    p.set_defaults(run=inspect)


def _add_index(verbs: argparse._SubParsersAction) -> None:
    p = verbs.add_parser(
        "index",
        help="index the tars of a source ahead of training",
        description="Reads the headers of every tar, 16 at a time, local or remote, so that no "
        "run has to when it starts. The indexes go into the cache ($UNCLIP_CACHE, else "
        "~/.cache/unclip), or beside local tars, where every machine that sees them finds them.",
        epilog=f"examples:\n{INDEX}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "source", help="tars: a folder of them, a file, or a pattern such as {000..099}.tar"
    )
    p.add_argument("--beside", action="store_true", help="write NAME.tar.index.npz beside each tar")
    p.set_defaults(run=index)


def _add_pack(verbs: argparse._SubParsersAction) -> None:
    p = verbs.add_parser(
        "pack",
        help="write a source as tars or parquet",
        description="Writes the samples of any source into shards of equal size, which are read "
        "faster than single files, locally and over a network. Image files are copied as they are, "
        "unless --max-side reduces them. Run the same command again to continue after an "
        "interruption.",
        epilog=f"examples:\n{PACK}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_common(p)
    p.add_argument("--out", type=Path, metavar="DIR", required=True, help="new or empty folder")
    p.add_argument(
        "--format", choices=["tar", "parquet"], default="tar", help="of the shards (default tar)"
    )
    p.add_argument(
        "--shard-size",
        type=int,
        default=10_000,
        metavar="N",
        help="samples per shard (default 10000)",
    )
    p.add_argument(
        "--max-side",
        type=int,
        metavar="PIXELS",
        help="reduce larger images so that the longer side has this many",
    )
    p.add_argument(
        "--quality", type=int, default=95, help="of reduced JPEG and WebP images (default 95)"
    )
    p.add_argument("--limit", type=int, metavar="N", help="only the first N samples")
    p.add_argument(
        "--on-error",
        choices=["skip", "error"],
        default="skip",
        help="what to do with a damaged sample (default skip)",
    )
    p.add_argument("--force", action="store_true", help="remove the shards in DIR and start over")
    p.set_defaults(run=pack)


def _add_common(p: argparse.ArgumentParser) -> None:
    p.add_argument("source", help=SOURCE)
    p.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count(),
        help="processes that read (default: one per core)",
    )
    p.add_argument("--size", type=int, default=64, help="side of scenes, in pixels (default 64)")
    p.add_argument(
        "--caption",
        metavar="TEXT",
        help="caption of images that have none; {folder} is the name of the image's folder",
    )


def inspect(args: argparse.Namespace) -> None:
    """Measure, print, draw."""
    from unclip.common.checks import require
    from unclip.common.inputs import require_apart

    _check(args)
    require(not (args.clip and args.context), "--clip, --context", "give one of them")
    require(args.context is None or args.context > 2, "--context", "must be at least 3")
    require(args.out is not None or not args.force, "--force", "has no effect without --out")
    out = args.out and numbered_folder(args.out, "report.json", force=args.force)
    if args.force:
        require_apart(out, _inputs(args), option="--out ")
    context = _context_of(args.clip) if args.clip else args.context or 77

    config, source = _open(args, on_error="skip")
    from unclip.data.inspect.inspect import inspect
    from unclip.data.inspect.table import show
    from unclip.data.sources import open_splits

    found = inspect(
        source,
        held_out=len(open_splits(config, image_size=args.size).held_out),
        name=args.source,
        limit=args.limit,
        context=context,
        workers=args.workers,
    )
    text = json.dumps(found.report, indent=2)
    if out is not None:
        _write(out, text, found.sheets)
    say(text, lines=True) if args.json else show(found.report)
    if out is not None:
        say(f"written to {out}", error=True)
    elif not args.json:
        say("--out DIR writes contact_sheet.png, suspects.png and report.json", error=True)


def _write(out: Path, report: str, sheets: dict[str, Image.Image | None]) -> None:
    """The report and the sheets; one that is not needed goes, too."""
    from unclip.common.atomic import atomic_write

    with writing(out):
        with atomic_write(out / "report.json") as scratch:
            scratch.write_text(report + "\n", encoding="utf-8")
        for name, sheet in sheets.items():
            (out / name).unlink(missing_ok=True)  # of another source, with --force
            if sheet is not None:
                with atomic_write(out / name) as scratch:
                    sheet.save(scratch, "png")


def _context_of(clip: str) -> int:
    """Tokens that a CLIP reads."""
    from unclip.runs.parents import clip_dims

    return clip_dims(clip)["context"]


def index(args: argparse.Namespace) -> None:
    """Open the source, which indexes what is not indexed yet."""
    from unclip.common.errors import UserError
    from unclip.data import files
    from unclip.data.readers.opening import open_files, tars_of
    from unclip.data.readers.tar_index import write_beside

    tars = tars_of(args.source)
    if args.beside:
        for tar in tars:
            if files.is_url(tar):
                raise UserError(f"--beside: {tar} is remote; leave --beside out to use the cache")
        for tar in tars:
            try:
                write_beside(tar)
            except OSError as error:
                raise UserError(f"--beside: {tar}: {error.strerror or error}") from None
    samples = len(open_files(args.source, on_error="skip"))
    say(f"{args.source}: tars {len(tars):,}, samples {samples:,}, indexed")


def pack(args: argparse.Namespace) -> None:
    """Open, write, say how much."""
    from unclip.common.inputs import require_apart

    _check(args)
    require_apart(args.out, _inputs(args), option="--out ")
    check_folder(args.out)

    _, opened = _open(args, on_error=args.on_error)
    from unclip.data.pack.manifest import Packing
    from unclip.data.pack.pack import pack as write

    packing = Packing(
        format=args.format,
        shard_size=args.shard_size,
        max_side=args.max_side,
        quality=args.quality,
        limit=args.limit,
    )
    done = write(
        opened,
        args.out,
        packing,
        workers=args.workers,
        on_error=args.on_error,
        force=args.force,
    )
    skipped = sum(len(shard.skipped) for shard in done.shards)
    say(f"{args.out}: samples {done.count:,}, shards {len(done.shards):,}, skipped {skipped:,}")


def _inputs(args: argparse.Namespace) -> list[str]:
    from unclip.data.config import BUILT_IN

    return [] if args.source in BUILT_IN else [args.source]


def _open(args: argparse.Namespace, *, on_error: OnError) -> tuple[DataConfig, Source]:
    from unclip.data.config import DataConfig
    from unclip.data.sources import open_source

    config = DataConfig(source=args.source, on_error=on_error, caption=args.caption)
    return config, open_source(args.source, config, image_size=args.size, split="all")


def _check(args: argparse.Namespace) -> None:
    from unclip.common.blank import is_blank
    from unclip.common.checks import require

    require(args.workers >= 0, "--workers", "must not be negative")
    require(0 < args.size <= 4096, "--size", "must be in [1, 4096]")
    require(args.limit is None or args.limit > 0, "--limit", "must be at least 1")
    require(args.caption is None or not is_blank(args.caption), "--caption", "must be a text")
