"""`unclip export`: a cascade as a pipeline of another project."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLES = """\
examples:
  unclip export runs/karlo --to diffusers --out karlo-mine
  unclip export runs/karlo --to diffusers --out karlo-mine --half --force
  unclip export cascade.zip --to diffusers --out mine   (a bundle of `unclip share`)
  unclip export runs/karlo/prior --to diffusers --out prior   (one stage's components)
  unclip export runs/stars --to peft --out stars-peft   (an adapter)
"""


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the command."""
    p = commands.add_parser(
        "export",
        help="write a cascade as a diffusers pipeline, or an adapter as peft reads it",
        description="Writes CLIP, prior, decoder and upsampler as the component folders of "
        "diffusers' UnCLIPPipeline (without a prior: UnCLIPImageVariationPipeline; of a prior and "
        "its CLIP: KandinskyPriorPipeline), with their origin. Other sets of stages are written as "
        "components without a pipeline. What diffusers' classes cannot hold is refused by name "
        "before anything is written: for example, embeddings must be raw. "
        "--to peft writes an adapter as peft's adapter_config.json and "
        "adapter_model.safetensors.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "cascade",
        type=Path,
        help="folder of a cascade or of one stage, or a bundle; with --to peft an adapter",
    )
    p.add_argument("--to", required=True, choices=("diffusers", "peft"), help="whose layout")
    p.add_argument("--out", type=Path, required=True, help="the pipeline's folder")
    p.add_argument(
        "--half", action="store_true", help="round to float16 (default: as the stages have it)"
    )
    p.add_argument(
        "--force", action="store_true", help="replace an earlier export; other folders stay"
    )
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Export, and say what is where."""
    from unclip.cli.outputs import check_folder, writing
    from unclip.common.inputs import require_apart
    from unclip.common.terminal import say
    from unclip.pipeline.folder import require_there

    require_there(args.cascade)
    check_folder(args.out)
    if args.force:
        require_apart(args.out, [args.cascade], option="--out ")
    if args.to == "peft":
        return _export_adapter(args)
    from unclip.sharing.cache import cascade_folder
    from unclip.weights.exporting import export_diffusers, left_out

    cascade = cascade_folder(args.cascade)
    with writing(args.out):
        made = export_diffusers(cascade, args.out, half=args.half, force=args.force)
    for path in made:
        say(path)
    for line in left_out(cascade):
        say(f"unclip: {line}", error=True)


def _export_adapter(args: argparse.Namespace) -> None:
    from unclip.cli.outputs import writing
    from unclip.common.errors import UserError
    from unclip.common.terminal import say
    from unclip.weights.peft_layout import export_peft

    if args.half:
        raise UserError("--half: --to peft writes numbers as they are; leave it out")
    with writing(args.out):
        for path in export_peft(args.cascade, args.out, force=args.force):
            say(path)
