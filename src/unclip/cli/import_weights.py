"""`unclip import`: weights of other projects as a cascade."""

from __future__ import annotations

import argparse
from pathlib import Path

from unclip.common.errors import UserError
from unclip.common.terminal import say

EXAMPLES = """\
examples:
  unclip import hf://kakaobrain/karlo-v1-alpha --out runs/karlo \\
      --clip hf://kakaobrain/karlo-v1-alpha-image-variations
  unclip import karlo --out runs/karlo                  (the same, by name)
  unclip import downloads/karlo --out runs/karlo --half
  unclip import hf://kandinsky-community/kandinsky-2-1-prior@main --out runs/kandinsky_prior
  unclip import glide/base.pt --merges merges.txt --out runs/glide
  unclip import glide/upsample.pt --merges merges.txt --out runs/glide
  unclip import laion/prior --out runs/mine --clip hf://openai/clip-vit-large-patch14
  unclip import karlo-v1-alpha/prior --out runs/mine
"""


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the command."""
    p = commands.add_parser(
        "import",
        help="make a cascade of published weights: Karlo, GLIDE, priors, CLIPs",
        description="Reads diffusers' folders (Karlo, its image variations, Kandinsky's priors), "
        "the original files of Karlo and Kandinsky 2.1 with their CLIP, of GLIDE and of LAION's "
        "prior, single components, and CLIPs of transformers or OpenAI, whatever the files are "
        "called. Nothing in a file is run. The folder it writes is a cascade: `unclip sample "
        "--pipeline DIR`.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "source",
        help="folder, file, URL of a file, hf://ORG/NAME[@REVISION], or a published cascade's name "
        "(`unclip experiments list cascades/`)",
    )
    p.add_argument("--out", type=Path, required=True, help="the cascade's folder")
    p.add_argument(
        "--clip",
        metavar="SOURCE",
        help="where the CLIP comes from, if the source has none or only its text half",
    )
    p.add_argument(
        "--merges",
        type=Path,
        metavar="FILE",
        help="GPT-2's merges.txt (vocab.bpe), for GLIDE; default: the one beside the weights",
    )
    p.add_argument("--half", action="store_true", help="keep half precision (default: float32)")
    p.add_argument(
        "--force",
        action="store_true",
        help="replace stages that were imported earlier; runs and other files stay",
    )
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Import, and say what is where."""
    from unclip.cli.outputs import check_folder, writing

    check_folder(args.out)
    from unclip.common.inputs import require_apart
    from unclip.config.cascades import find_cascade, meant
    from unclip.runs.published import import_cascade
    from unclip.weights.importing import import_weights

    if args.force:
        require_apart(args.out, [args.source, args.clip or "", args.merges or ""], option="--out ")

    how = {name: getattr(args, name) for name in ("clip", "merges", "half", "force")}
    there = Path(args.source).expanduser().exists()
    named = None if there else find_cascade(args.source)
    if not there and named is None and (hint := meant(args.source)):
        raise UserError(f"{args.source}: no such file or folder{hint}")
    with writing(args.out):
        if named is None:
            made = import_weights(args.source, args.out, **how)
        else:
            made = import_cascade(named, args.out, **how)
    for path in made:
        say(path)
