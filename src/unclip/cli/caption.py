"""`unclip data caption`: captions for images that have none."""

from __future__ import annotations

import argparse
from pathlib import Path

from unclip.common.checks import require
from unclip.common.counted import counted
from unclip.common.errors import UserError
from unclip.common.terminal import say

EXAMPLES = """\
  unclip data caption photos/ --with hf://microsoft/git-base-coco
  unclip data caption photos/ --with models/blip --device cuda --batch 32
"""


def add(verbs: argparse._SubParsersAction) -> None:
    """Declare the verb."""
    p = verbs.add_parser(
        "caption",
        help="caption the images of a folder that have none, by a local model",
        description="Writes metadata.jsonl into the folder, with a caption for each image that has "
        "none. Captions that are there are kept, never replaced: those of .txt and .json files and "
        "of a metadata.csv are repeated in it. The model is any of transformers that captions "
        "without a prompt (BLIP, GIT, an encoder with a decoder); its licence is printed. Run the "
        "same command again to continue after an interruption. Needs pip install "
        "'unclip[finetune]'.",
        epilog=f"examples:\n{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("folder", type=Path, help="of images; folders in it count too")
    p.add_argument(
        "--with",
        dest="model",
        required=True,
        metavar="MODEL",
        help="a folder that transformers has written, or hf://ORG/NAME[@REVISION]",
    )
    p.add_argument("--device", default="auto", help="auto (default) | cpu | cuda | cuda:1 | mps")
    p.add_argument("--batch", type=int, default=8, help="images at a time (default 8)")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Load the model, caption, say how many."""
    require(args.batch >= 1, "--batch", "must be at least 1")
    if not args.folder.is_dir():
        raise UserError(f"{args.folder}: is not a folder; name a local folder of images")
    from unclip.common.devices import find_device
    from unclip.finetuning.captioner import Captioned, caption_folder, captions_of

    device = find_device(args.device)
    found = captions_of(args.folder)
    if all(found.values()):
        done = Captioned(len(found), 0, 0)
    else:
        from unclip.finetuning.caption_model import load_caption_model

        model = load_caption_model(args.model, device)
        say(model.licence, error=True)
        done = caption_folder(args.folder, model.describe, batch=args.batch)
    rest = f", {done.without} cannot be captioned" if done.without else ""
    say(f"{args.folder}: {counted(done.new, 'new caption')}, {done.had} were there{rest}")
