"""`unclip finetune`: a cascade, from somebody's images to a page of before and after."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import replace
from pathlib import Path

from unclip.cli.outputs import check_folder
from unclip.common.blank import is_blank
from unclip.common.checks import require
from unclip.common.errors import UserError
from unclip.common.inputs import require_apart
from unclip.common.terminal import say

EXAMPLES = """\
examples:
  unclip finetune photos/ --from karlo --token "sks dog" --out mine
  unclip finetune pets/ --from karlo --caption "a photo of a {folder}" --out pets
  unclip finetune photos/ --from runs/quickstart --stages decoder --steps 200 --out mine
  unclip sample "sks dog in the snow" --pipeline mine
  unclip finetune photos/ --from karlo --adapter token --token "<sks> dog" --out word
  unclip sample "<sks> dog in the snow" --pipeline word
"""
EACH = 4  # images of a caption on the page
MOST = 4  # held-out captions on the page


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the command."""
    p = commands.add_parser(
        "finetune",
        help="fine-tune a cascade on your images",
        description="Trains the decoder and the prior of a cascade further on your images, and "
        "writes a cascade that `--pipeline` takes, with a page of the same captions before and "
        "after. Precision, batch, memory and adapters are chosen by this machine and the size of "
        "the weights; every choice is printed as the commands that it stands for, and key=value "
        "overrides it. Run the same command again to resume.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("photos", help="images: a folder, tars, or anything that data.source takes")
    p.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="fields of every stage"
    )
    p.add_argument(
        "--from",
        dest="base",
        required=True,
        metavar="CASCADE",
        help="a cascade's folder, its bundle, a published cascade's name (karlo) or hf://ORG/NAME",
    )
    p.add_argument("--out", required=True, help="folder of the new cascade")
    said = p.add_mutually_exclusive_group()
    said.add_argument(
        "--token",
        metavar="TEXT",
        help='what the images show, as "sks dog": a photo of TEXT; with --adapter token its first '
        "word is the one that is learned",
    )
    said.add_argument(
        "--caption",
        metavar="TEXT",
        help="caption of images that have none; {folder} is the image's folder",
    )
    said.add_argument(
        "--captioner",
        metavar="MODEL",
        help="a local model that captions images without a caption first: a folder or hf://ORG/NAME"
        " (`unclip data caption`)",
    )
    p.add_argument(
        "--stages", nargs="+", default=[], help="stages to train (default decoder prior)"
    )
    p.add_argument(
        "--adapter",
        choices=["auto", "lora", "none", "token"],
        default="auto",
        help="lora: train an adapter, none: all weights, token: no weights, but a new word of the "
        "CLIP, by the loss of the prior (default auto: lora for large networks)",
    )
    p.add_argument("--vectors", type=int, metavar="N", help="vectors of the new word (default 1)")
    p.add_argument(
        "--initialise-from",
        metavar="WORD",
        help="what the new word means at first (default: what follows it in --token, else the mean "
        "of all words)",
    )
    p.add_argument(
        "--steps",
        type=int,
        help="steps of each stage (default 1350 of a decoder, 1100 of a prior, 1000 of "
        "an upsampler)",
    )
    p.add_argument(
        "--preserve",
        type=float,
        metavar="SHARE",
        help="share of each batch, up to 0.9, that the cascade itself sampled before, so that it "
        "forgets less (default 0.5 for a small set, if captions for it are known; 0: none)",
    )
    p.add_argument(
        "--preserve-captions",
        metavar="FILE",
        help="captions of these samples (default: of the scenes that the cascade was trained on, "
        "or of the kind that --token ends with)",
    )
    p.add_argument("--prompt", action="append", help="caption on the page; repeatable")
    p.add_argument("--device", default="auto", help="auto (default) | cpu | cuda | mps")
    p.add_argument("--dry-run", action="store_true", help="print what would be done, and exit")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Decide, say it, train, draw."""
    require(args.steps is None or args.steps >= 1, "--steps", "must be at least 1")
    share = args.preserve
    require(share is None or 0 <= share <= 0.9, "--preserve", "must be in [0, 0.9]")
    alone = args.preserve_captions is None or share != 0
    require(alone, "--preserve-captions", "has no effect with --preserve 0")
    for option in ("token", "caption", "captioner", "out", "initialise_from"):
        value = getattr(args, option)
        key = f"--{option.replace('_', '-')}"
        require(value is None or not is_blank(value), key, "must be a text")
    learns = args.adapter == "token"
    require(
        not learns or args.token is not None, "--adapter token", "needs --token, as '<sks> dog'"
    )
    for option in ("vectors", "initialise_from"):
        key = f"--{option.replace('_', '-')}"
        alone = learns or getattr(args, option) is None
        require(alone, key, "has no effect without --adapter token")
    require(args.vectors is None or args.vectors >= 1, "--vectors", "must be at least 1")
    for prompt in args.prompt or []:
        require(not is_blank(prompt), "--prompt", "must be a text")
    model = args.captioner or "hf://"
    if not model.startswith("hf://") and not Path(model).is_dir():
        raise UserError(f"--captioner {model}: no such folder; name one, or hf://ORG/NAME")
    check_folder(Path(args.out))
    from unclip.common.devices import find_device

    device = find_device(args.device)  # before anything is fetched
    if device.index:
        raise UserError(
            f"--device {args.device}: give cuda, and CUDA_VISIBLE_DEVICES={device.index}"
        )
    from unclip.finetuning.finetune import announce, compared, finetune, prepare
    from unclip.finetuning.request import Request
    from unclip.sharing.cache import cascade_folder

    base = cascade_folder(args.base)
    given = [str(base), args.photos, *filter(None, [args.preserve_captions])]
    require_apart(Path(args.out), given, option="--out ")
    request = Request(
        source=args.photos,
        base=str(base),
        out=args.out,
        caption=f"a photo of {args.token}" if args.token else args.caption,
        captioner=args.captioner,
        token=args.token,
        stages=tuple(args.stages),
        adapter=args.adapter,
        vectors=args.vectors,
        initial=args.initialise_from,
        steps=args.steps,
        preserve=args.preserve,
        preserve_captions=args.preserve_captions,
        device=device.type,
        overrides=tuple(args.overrides),
    )
    prepared = prepare(request)
    announce(request, prepared)
    if args.dry_run:
        return
    seconds = finetune(request, prepared)
    from unclip.config.load import load_experiment
    from unclip.evaluation.protocols import finetuned, own_data
    from unclip.tracking.report import Finished

    tasks = prepared.tasks
    data = load_experiment(tasks[0].name, tasks[0].overrides).config.data
    data = replace(data, source=args.photos, mixture={})  # no images of the base's
    runs = [Finished.load(task.folder) for task in tasks]
    for line in compared(tasks, runs):
        say(line, error=True)
    say(
        f"trained in {seconds:.0f} s; sample with --pipeline {args.out}; its page is drawn now, "
        "or later by the same command",
        error=True,
    )
    page = finetuned.report(
        base,
        Path(args.out),
        runs,
        captions=args.prompt or _prompts(args.token, own_data.held_out_captions(data, 64)),
        each=EACH,
        data=data,
        commands=[f"unclip train {shlex.join([t.name, *t.overrides])}" for t in tasks],
        device=device.type,
    )
    say(page)


def _prompts(token: str | None, held_out: list[str]) -> list[str]:
    """What the page draws: the token in places that no image shows it in, or held-out captions."""
    if token:
        kind = token.split()[-1]
        return [f"a photo of {token}", f"{token} in the snow", f"a painting of {token}"] + (
            [f"a photo of a {kind}"] if kind != token else []
        )
    return list(dict.fromkeys(held_out))[:MOST] or ["a photo"]
