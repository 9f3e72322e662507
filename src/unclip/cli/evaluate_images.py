"""`unclip evaluate images` and `unclip evaluate compare`: sets of images, and their figures."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from unclip.cli.command_parser import CommandParser
from unclip.cli.outputs import check_file, writing
from unclip.cli.sampling_options import add_force
from unclip.common.checks import require
from unclip.common.errors import UserError
from unclip.common.terminal import say

if TYPE_CHECKING:
    from unclip.evaluation.metrics.conditions import ImagesEvaluation

FEATURES = "clip:ARCH/TAG, own:CASCADE, inception[@FILE], dinov2@FILE or efficientnet_lite0[@FILE]"
IMAGES_EXAMPLES = """\
examples:
  unclip evaluate images samples/ --reference val2014/ --size 256 --features inception
  unclip evaluate images samples.tar --reference real.parquet --features efficientnet_lite0 --json
  unclip evaluate images val2014/ --size 256 --features inception --save-statistics coco.npz
  unclip evaluate images samples/ --reference coco.npz --features inception
  torchrun --nproc-per-node 8 -m unclip evaluate images ...
"""
COMPARE_EXAMPLES = """\
examples:
  unclip evaluate images a/ --reference real/ --features inception --json > a.json
  unclip evaluate images b/ --reference real/ --features inception --json > b.json
  unclip evaluate compare a.json b.json
  unclip evaluate compare a.json b.json --allow-different guidance
"""


def images_parser() -> CommandParser:
    """Of `unclip evaluate images`."""
    p = CommandParser(
        prog="unclip evaluate images",
        description="Measures generated images, against real ones or alone: Fréchet distance (FID "
        "with --features inception), KID, precision, recall, density, coverage, Vendi; class "
        "scores of classifiers, CMMD and CLIP score of a CLIP.",
        epilog=IMAGES_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("generated", help="folder, tars, parquet, any data.source, or .npz statistics")
    p.add_argument("--reference", help="real images, as `generated`")
    p.add_argument("--features", required=True, help=FEATURES)
    p.add_argument("--size", type=int, help="shorter side to so many pixels, then the middle")
    p.add_argument("--neighbours", type=int, default=3, help="k of precision, ... (default 3)")
    p.add_argument("--infinity", action="store_true", help="also the distance at endless samples")
    p.add_argument("--probe", type=Path, help="of `unclip fit-probe`; --features is its CLIP")
    p.add_argument("--guidance", help="of the sampling, where no manifest.json tells")
    p.add_argument("--steps", help="of the sampling")
    p.add_argument("--seeds", help="of the sampling")
    p.add_argument("--precision", default="32", choices=["32", "64"], help="of the network")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    p.add_argument("--workers", type=int, default=0, help="processes that read (default 0)")
    p.add_argument("--save-statistics", type=Path, metavar="FILE.npz", help="of `generated`")
    p.add_argument("--json", action="store_true", help="machine-readable, for `compare`")
    p.add_argument("--out", type=Path, help="also write the table as Markdown")
    add_force(p)
    p.set_defaults(run=run_images)
    return p


def compare_parser() -> CommandParser:
    """Of `unclip evaluate compare`."""
    p = CommandParser(
        prog="unclip evaluate compare",
        description="Shows figures of several sets side by side, if they were measured alike.",
        epilog=COMPARE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "files",
        nargs="+",
        type=Path,
        help="what `evaluate images --json` printed, or `evaluate cascade` wrote",
    )
    p.add_argument("--features", help="of a file of `evaluate cascade` with several: which")
    p.add_argument("--allow-different", nargs="+", default=[], metavar="CONDITION", help="as steps")
    p.add_argument("--out", type=Path, help="also write the table as Markdown")
    add_force(p)
    p.set_defaults(run=run_compare)
    return p


def run_images(args: argparse.Namespace) -> None:
    """Measure one set, print its figures."""
    require(args.size is None or 1 <= args.size <= 4096, "--size", "must be in [1, 4096]")
    require(args.neighbours >= 1, "--neighbours", "must be at least 1")
    require(args.workers >= 0, "--workers", "must not be negative")
    for option in ("out", "save_statistics"):
        name = f"--{option.replace('_', '-')}"
        check_file(getattr(args, option), name, force=args.force)
    from unclip.common.devices import find_device
    from unclip.evaluation.features.network import open_network
    from unclip.evaluation.features.statistics import save_statistics
    from unclip.evaluation.linear_probes.probe import load_probe
    from unclip.evaluation.protocols.images import (
        check_output,
        check_sets,
        evaluate_images,
        open_set,
    )
    from unclip.training.world import join_processes

    if args.save_statistics is not None:
        check_output(args.save_statistics)
    sampling = _sampling(args)
    rank = join_processes()
    device = find_device(args.device)
    network = open_network(args.features, device=device, precision=args.precision)
    probe = None
    if args.probe is not None:
        if network.clip is None:
            raise UserError(f"--probe {args.probe}: reads embeddings of a CLIP; --features clip:…")
        probe = load_probe(args.probe, network.clip)
    how = {"size": args.size, "workers": args.workers}
    opened = [open_set(args.generated, network, option="images", **how)]
    if args.reference is not None:
        opened.append(open_set(args.reference, network, option="--reference", **how))
    real = opened[1] if len(opened) > 1 else None
    how = {"k": args.neighbours, "infinity": args.infinity}
    check_sets(opened[0], real, probe=args.probe, **how)
    generated, *others = [each.measured() for each in opened]
    reference = others[0] if others else None
    if rank > 0:
        return
    found = evaluate_images(
        generated,
        reference,
        network,
        title=args.generated,
        reference_title=args.reference,
        probe=probe,
        sampling=sampling,
        **how,
    )
    if args.save_statistics is not None:
        with writing(args.save_statistics, "--save-statistics"):
            save_statistics(generated, args.save_statistics)
    if args.json:
        say(json.dumps(found.as_dict(), indent=2), lines=True)
        _write(args.out, [found])
    else:
        _show(args.out, [found])


def _sampling(args: argparse.Namespace) -> dict[str, str | None]:
    """How the images were made: their sampler's own record, or else what was given."""
    from unclip.evaluation.protocols.sampled import sampling_of

    told = sampling_of(args.generated)
    given = {name: getattr(args, name) for name in ("guidance", "steps", "seeds")}
    for name, value in given.items():
        if told and value is not None:
            raise UserError(
                f"--{name} {value}: {args.generated}/manifest.json says how the images were made "
                f"({told.get(name, f'no {name}')}); leave it out"
            )
    return {**given, **told}


def run_compare(args: argparse.Namespace) -> None:
    """Refuse what is not comparable, print one table."""
    check_file(args.out, "--out", force=args.force)
    from unclip.evaluation.metrics.conditions import check_comparable, read_evaluation

    found = [read_evaluation(path, args.features) for path in args.files]
    if len({each.title for each in found}) < len(found):
        for path, each in zip(args.files, found):
            each.title = str(path)
    check_comparable(found, args.allow_different)
    _show(args.out, found)


def _show(out: Path | None, found: list[ImagesEvaluation]) -> None:
    from unclip.common import tables
    from unclip.evaluation.metrics.conditions import lines_of

    tables.show(lines_of(found))
    _write(out, found)


def _write(out: Path | None, found: list[ImagesEvaluation]) -> None:
    from unclip.common import tables
    from unclip.common.atomic import atomic_write
    from unclip.evaluation.metrics.conditions import lines_of

    if out is not None:
        with writing(out), atomic_write(out) as scratch:
            scratch.write_text(tables.markdown(lines_of(found)), encoding="utf-8")
