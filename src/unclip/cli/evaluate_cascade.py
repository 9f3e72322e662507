"""`unclip evaluate cascade`: the figures of a cascade by a fixed protocol."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from unclip.cli.command_parser import CommandParser, seed
from unclip.cli.evaluate_images import FEATURES
from unclip.cli.outputs import check_folder
from unclip.cli.sampling_options import (
    add_adapter,
    add_device,
    add_sampling,
    open_pipeline,
    settings_of,
)
from unclip.common.checks import require
from unclip.common.errors import UserError
from unclip.common.terminal import say

if TYPE_CHECKING:
    from unclip.evaluation.protocols.captioned import Protocol
    from unclip.pipeline.pipeline import Pipeline
    from unclip.runs.evaluate_cascade import Measuring
    from unclip.runs.sample_plan import SampleConfig

EXAMPLES = """\
examples:
  unclip evaluate cascade mine --protocol coco30k --annotations captions_val2014.json \\
      --images val2014 --features inception clip:ViT-L-14/openai --out coco --devices 8
  torchrun --nnodes 4 --nproc-per-node 8 ... -m unclip evaluate cascade mine --protocol coco30k ...
  unclip evaluate cascade runs/cifar --protocol cifar --images cifar10-test.tar --out cifar \\
      --features efficientnet_lite0
  unclip evaluate cascade runs/quickstart --protocol scenes --features own:runs/quickstart --out s

A run that was stopped is resumed by the same command. Images are kept: the same command with other
--features measures them again and samples nothing.
"""
PROTOCOLS = {
    "coco30k": "30,000 captions of MS-COCO's validation set, images at 256 px",
    "scenes": "captions of one object and their scenes, which the oracle reads too",
    "cifar": "any captioned images, a caption each, at 32 px",
}


def cascade_parser() -> CommandParser:
    """Of `unclip evaluate cascade`."""
    p = CommandParser(
        prog="unclip evaluate cascade",
        description="Samples the captions of a protocol and measures the images against real "
        "ones. Writes images, evaluation.json, a table beside the paper's, and a page.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_protocol(p, several=False)
    p.add_argument("--infinity", action="store_true", help="also the distance at endless samples")
    p.set_defaults(run=run)
    return p


def add_protocol(p: CommandParser, *, several: bool) -> None:
    """What is sampled, measured, and by whom: shared with `unclip evaluate guidance`."""
    which = {"nargs": "+"} if several else {}
    p.add_argument("cascade", **which, help="a cascade's folder, bundle or published name")  # type: ignore[arg-type]
    p.add_argument(
        "--protocol",
        required=True,
        choices=list(PROTOCOLS),
        help="; ".join(f"{name}: {what}" for name, what in PROTOCOLS.items()),
    )
    p.add_argument("--annotations", type=Path, help="coco30k: captions_val2014.json")
    p.add_argument("--images", help="coco30k: the folder val2014; cifar: any data.source")
    p.add_argument("--limit", type=int, help="captions (default 30,000; scenes 1,000; cifar all)")
    p.add_argument(
        "--captions-of",
        choices=["all", "images"],
        help="all: --limit of all captions, an image may come twice (default of coco30k) | images: "
        "one caption each of --limit images",
    )
    p.add_argument(
        "--reference-of",
        choices=["all", "matched"],
        help="all images (default) | matched: those of the captions",
    )
    p.add_argument("--reference", help="other images or statistics (.npz), instead of these")
    p.add_argument("--features", required=True, nargs="+", help=f"one or more: {FEATURES}")
    p.add_argument("--neighbours", type=int, default=3, help="k of precision, ... (default 3)")
    p.add_argument(
        "--probe", type=Path, help="of `unclip fit-probe`; one of --features is its CLIP"
    )
    p.add_argument("--size", type=int, help="pixels a side (default: the protocol's)")
    p.add_argument("--workers", type=int, default=0, help="processes that read (default 0)")
    p.add_argument("--seed", type=seed, default=0, help="seed of the first image (default 0)")
    p.add_argument("--batch", type=int, default=16, help="images at a time (default 16)")
    p.add_argument("--devices", type=int, help="processes per machine, a GPU or CPU core each")
    p.add_argument("--nodes", type=int, help="machines, where torchrun or srun started them")
    p.add_argument("--shard-size", type=int, default=256, help="images per shard (default 256)")
    p.add_argument("--out", required=True, type=Path, metavar="DIR", help="the folder to write")
    p.add_argument(
        "--force", action="store_true", help="sample again what has other settings or cascades"
    )
    add_device(p)
    add_adapter(p)
    add_sampling(p)
    p.set_defaults(clip=None, prior=None, decoder=None, upsampler=None)


def run(args: argparse.Namespace) -> None:
    """Sample, measure, and show the tables."""
    check_protocol(args)
    args.pipeline = args.cascade
    settings = settings_of(args)
    from unclip.runs.evaluate_cascade import evaluate_cascade

    def opened(device: str) -> Pipeline:
        args.device = device
        return open_pipeline(args)

    sections = evaluate_cascade(
        opened,
        protocol_of(args, args.cascade),
        args.out,
        title=Path(args.cascade).name,
        measuring=measuring_of(args),
        config=config_of(args),
        settings=settings,
        force=args.force,
    )
    show_sections(sections, args.out)


def show_sections(sections: list[tuple[str, list[list[str]]]] | None, out: Path) -> None:
    """Print titles, tables and the page in ``out``; None is of a process that shows nothing."""
    from unclip.common import tables

    for title, lines in sections or []:
        say(title)
        tables.show(lines)
    if sections is not None:
        say(str(out / "index.html"))


def check_protocol(args: argparse.Namespace) -> None:
    """Refuse options that do not go together, before any work."""
    for name in ("limit", "size", "neighbours", "batch"):
        value = getattr(args, name)
        require(value is None or value >= 1, f"--{name}", "must be at least 1")
    require(args.limit is None or args.limit >= 2, "--limit", "must be at least 2")
    require(args.size is None or args.size <= 4096, "--size", "must be in [1, 4096]")
    require(args.workers >= 0, "--workers", "must not be negative")
    for name in args.cascade if isinstance(args.cascade, list) else [args.cascade]:
        require(name != "", "cascade", "must not be empty")  # it would be the default one
    check_folder(args.out)
    takes = {
        "coco30k": ("annotations", "images", "captions_of", "reference_of", "size"),
        "cifar": ("images", "captions_of", "reference_of", "size"),
        "scenes": (),
    }[args.protocol]
    for name in ("annotations", "images", "captions_of", "reference_of", "size"):
        option, given = f"--{name.replace('_', '-')}", getattr(args, name) is not None
        if given and name not in takes:
            raise UserError(f"{option}: does not apply to --protocol {args.protocol}")
        if not given and name in takes and name in ("annotations", "images"):
            raise UserError(f"--protocol {args.protocol}: needs {option}")
    if len(set(args.features)) < len(args.features):
        raise UserError("--features: one is named twice")


def protocol_of(args: argparse.Namespace, cascade: str) -> Protocol:
    """The protocol, with its captions and images."""
    from unclip.evaluation.protocols import captioned

    given = {
        name: getattr(args, name)
        for name in ("captions_of", "reference_of", "size")
        if getattr(args, name) is not None
    }
    if args.limit is not None:
        given["n"] = args.limit
    if args.protocol == "coco30k":
        return captioned.coco30k(args.annotations, Path(args.images), **given)
    if args.protocol == "cifar":
        return captioned.captioned(args.images, **given)
    from unclip.sharing.cache import cascade_folder

    return captioned.scenes(cascade_folder(cascade), **given)


def measuring_of(args: argparse.Namespace) -> Measuring:
    """Networks and measures."""
    from unclip.runs.evaluate_cascade import Measuring

    return Measuring(
        features=args.features,
        neighbours=args.neighbours,
        infinity=getattr(args, "infinity", False),
        workers=args.workers,
        probe=args.probe,
        reference=args.reference,
    )


def config_of(args: argparse.Namespace) -> SampleConfig:
    """Who samples."""
    from unclip.runs.sample_plan import SampleConfig

    names = ("seed", "device", "precision", "offload", "compile", "devices", "nodes", "shard_size")
    return SampleConfig(**{name: getattr(args, name) for name in names})
