"""`unclip fit-pca`: principal components and buckets of a CLIP's image embeddings."""

from __future__ import annotations

import argparse

EXAMPLES = """\
examples:
  unclip fit-pca pca/tiny --with-parents
  unclip fit-pca pca/paper clip=open_clip:ViT-L-14/openai data.source=photos/
  unclip fit-pca pca/tiny pca.components=null pca.max_error=0.01 run.dir=runs/my-pca
"""


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the command."""
    p = commands.add_parser(
        "fit-pca",
        help="fit the PCA codec that the autoregressive prior uses",
        description="One streaming pass over the training samples. Writes an artifact, a plot of "
        "the spectrum and a table of the error against the number of components.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("experiment", help="such as pca/tiny, or a YAML file")
    p.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="fields of the experiment"
    )
    p.add_argument("--force", action="store_true", help="replace what is in run.dir")
    p.add_argument(
        "--with-parents",
        action="store_true",
        help="first train the CLIP, if it has no finished run",
    )
    p.add_argument("--precision", help="32 (default), tf32, bf16 or fp16, as pca.precision")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Resolve, fit, and say where it is."""
    from unclip.common.errors import UserError, article
    from unclip.config.load import load_experiment

    own = [] if args.precision is None else [f"pca.precision={args.precision}"]
    resolved = load_experiment(args.experiment, [*args.overrides, *own])
    if resolved.stage.trains:
        raise UserError(
            f"{args.experiment}: is {article(resolved.stage.name)}; give a pca experiment"
        )
    from unclip.runs.fit import fit
    from unclip.runs.train import make_parent

    fit(resolved, force=args.force, make=make_parent if args.with_parents else None)
