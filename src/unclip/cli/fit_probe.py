"""`unclip fit-probe`: predicted aesthetics or preference, linear in a CLIP's embedding."""

from __future__ import annotations

import argparse
from pathlib import Path

from unclip.cli.command_parser import seed
from unclip.cli.outputs import check_folder, writing
from unclip.cli.sampling_options import add_force
from unclip.common.counted import counted
from unclip.common.terminal import say

EXAMPLES = """\
examples:
  unclip fit-probe aesthetics ratings.csv --clip open_clip:ViT-L-14/openai --out aesthetics
  unclip fit-probe preference pairs.parquet --clip runs/quickstart/clip --out preference
  unclip fit-probe aesthetics --laion sa_0_4_vit_l_14_linear.pth --clip open_clip:ViT-L-14/openai \\
      --out aesthetics
  unclip evaluate images samples/ --features clip:ViT-L-14/openai --probe aesthetics

tables, as CSV or parquet (files are relative to the table):
  aesthetics: image,rating              preference: first,second,choice (first, second or tie)
"""


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the command."""
    p = commands.add_parser(
        "fit-probe",
        help="fit a linear probe of aesthetics or preference to ratings of your own",
        description="Ridge regression on mean ratings, or logistic regression on choices between "
        "two images, with the penalty chosen by cross-validation over images. The result is bound "
        "to the CLIP.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("kind", choices=["aesthetics", "preference"], help="what the probe predicts")
    p.add_argument("table", nargs="?", type=Path, help="CSV or parquet")
    p.add_argument("--laion", type=Path, metavar="FILE", help="LAION's weights, instead of a table")
    p.add_argument("--clip", required=True, help="artifact, run or open_clip:ARCH/TAG")
    p.add_argument("--out", required=True, type=Path, metavar="DIR", help="the folder to write")
    p.add_argument("--seed", type=seed, default=0, help="of the folds")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    add_force(p)
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Fit, store, and say how well it predicts what it has not seen."""
    from unclip.common.errors import UserError

    if (args.table is None) == (args.laion is None):
        raise UserError("fit-probe: give either a table or --laion FILE")
    if args.laion is not None and args.kind != "aesthetics":
        raise UserError("--laion: its weights predict aesthetics; say `fit-probe aesthetics`")
    check_folder(args.out)
    if args.out.exists() and not args.force:
        raise UserError(f"--out {args.out}: exists; name another folder, or add --force")
    if args.out.exists() and not (args.out / "artifact.json").is_file():
        raise UserError(f"--out {args.out}: is not an artifact, and is not replaced")
    from unclip.common.devices import find_device
    from unclip.common.hashing import file_sha256
    from unclip.common.inputs import require_apart
    from unclip.evaluation.linear_probes.fit import fit_pairs, fit_ratings
    from unclip.evaluation.linear_probes.probe import read_laion, save_probe
    from unclip.evaluation.linear_probes.table import read_table
    from unclip.runs.folders import trained
    from unclip.stages.clip.part import load

    source = args.laion or args.table
    if not source.is_file():  # before a CLIP is opened, or fetched
        option, what = ("", "table") if args.laion is None else ("--laion ", "file")
        raise UserError(f"{option}{source}: no such {what}")
    require_apart(args.out, [source, args.clip], option="--out ")
    device = find_device(args.device)
    named = args.clip.startswith("open_clip:")
    clip = load(args.clip if named else trained(args.clip), key="--clip")
    made: dict[str, object] = {"command": "fit-probe", "seed": args.seed}
    if args.laion is not None:
        fitted = read_laion(args.laion, clip)
        line = "read from LAION's weights"
    else:
        table = read_table(args.table, args.kind, clip, device)
        try:
            if args.kind == "aesthetics":
                fitted = fit_ratings(table.z, table.rating, image=table.image, seed=args.seed)
                line = f"{counted(len(table.rating), 'rating')} of "
                line += f"{counted(len(table.z), 'image')}; correlation"
            else:
                fitted = fit_pairs(table.z, table.first, table.second, table.chosen, seed=args.seed)
                line = f"{counted(len(table.chosen), 'pair')}, "
                line += f"{counted(table.ties, 'tie')} left out; right for"
        except ValueError as error:
            raise UserError(f"{args.table}: {error}") from None
        line += f" {fitted.held_out:.3f} on images not fitted, penalty {fitted.strength:g}"
        made |= {"held_out": fitted.held_out, "strength": fitted.strength}
    made |= {"table_sha256": file_sha256(source)}
    with writing(args.out):
        save_probe(args.out, args.kind, fitted, clip, made)
    say(f"{args.out}: {args.kind}: {line}")
