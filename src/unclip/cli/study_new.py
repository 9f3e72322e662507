"""`unclip study new`: from two cascades, or folders of images, to a study's pairs."""

from __future__ import annotations

import argparse
import copy
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unclip.cli.command_parser import seed
from unclip.cli.outputs import check_folder
from unclip.cli.sampling_options import (
    add_device,
    add_sampling,
    open_pipeline,
    settings_of,
)
from unclip.common.checks import require
from unclip.common.counted import counted
from unclip.common.errors import UserError
from unclip.common.home import at_home
from unclip.common.inputs import require_apart
from unclip.common.terminal import say
from unclip.config.cascades import find_cascade, meant

if TYPE_CHECKING:
    from unclip.data.readers.captions import Caption
    from unclip.pipeline.pipeline import Pipeline
    from unclip.study.new import ArmSource

EXAMPLES = """\
  unclip study new --a runs/full --b runs/glide --captions captions_val2014.json --out runs/study
  unclip study new --a runs/a --b runs/b --captions captions.txt --n 60 --questions caption \\
    --out study decoder.steps=50
  unclip study new --a samples_3/ --b samples_1/ --n 500 --out study     (folders of images)
  unclip study new --a runs/a --b runs/b --captions captions.txt --difference 3 --dry-run --out s
"""


def add(verbs: argparse._SubParsersAction, **epilog: Any) -> None:
    """Declare the verb."""
    v = verbs.add_parser(
        "new",
        help="sample or collect the pairs that people will judge",
        description="Says what that many votes can tell, samples both cascades (or takes images "
        "that were sampled before), and makes pairs of images and grids of 4 x 4 of the same "
        "captions, with catch pairs whose answer is known. Run the same command again to resume.",
        **epilog,
    )
    images = "a cascade, as `unclip sample --pipeline` takes it, or images with captions"
    v.add_argument("--a", required=True, metavar="CASCADE", help=images)
    v.add_argument("--b", required=True, metavar="CASCADE", help="likewise")
    v.add_argument(
        "--captions",
        type=Path,
        metavar="FILE",
        help="to choose from, as of `unclip sample`; not needed for two folders of images",
    )
    v.add_argument(
        "--questions",
        nargs="+",
        default=["photorealism", "caption", "diversity"],
        help="of photorealism, caption, diversity, which takes 16 images a caption (default all)",
    )
    v.add_argument("--n", type=int, default=1000, help="pairs per question (default 1000)")
    v.add_argument(
        "--catch", type=int, help="catch pairs per question (default 1 in 20, at least 3)"
    )
    v.add_argument("--size", type=int, help="resize all images to this many pixels a side")
    v.add_argument(
        "--difference",
        type=float,
        metavar="POINTS",
        help="say how many votes would show it",
    )
    v.add_argument("--dry-run", action="store_true", help="say what can be told, and exit")
    v.add_argument("--seed", type=seed, default=0, help="of images, sides and orders (default 0)")
    v.add_argument("--out", type=Path, required=True, metavar="STUDY", help="folder of the study")
    v.add_argument("--force", action="store_true", help="replace a study that nobody has voted in")
    v.add_argument("--batch", type=int, default=16, help="images at a time (default 16)")
    add_device(v)
    add_sampling(v, "For both cascades.")
    v.set_defaults(run=run, clip=None, prior=None, decoder=None, upsampler=None, adapter=[])


def run(args: argparse.Namespace) -> None:
    """Say the power, then make the pairs."""
    require(
        args.difference is None or 0 < args.difference <= 50,
        "--difference",
        "must be above 0 and at most 50 points",
    )
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UserError(
            "study new: runs in one process; to sample with several, run `unclip sample --captions "
            "FILE --n 16 --devices N` for each cascade first, and give the folders as --a and --b"
        )
    from unclip.data.readers.captions import read_captions
    from unclip.study.folder import StudyConfig
    from unclip.study.new import make_study
    from unclip.study.report import power_lines

    config = StudyConfig(
        questions=args.questions, n=args.n, catch=args.catch, seed=args.seed, size=args.size
    )
    config.validate()
    settings_of(args)
    check_folder(args.out)
    sources = {arm: _source(args, arm) for arm in ("a", "b")}
    sampled = [each.source for each in sources.values() if each.sample is not None]
    if sampled:
        _check_execution(args)
    elif args.sampler_words or args.fast:
        word = args.sampler_words[0] if args.sampler_words else "--fast"
        raise UserError(f"{word}: --a and --b are images, of which none is sampled; leave it out")
    local = [each.source for each in sources.values()]
    require_apart(args.out, [*local, *([args.captions] if args.captions else [])], option="--out ")
    captions = None if args.captions is None else read_captions(args.captions)
    if captions is None and len(sampled) == len(sources):
        raise UserError("--captions FILE: is needed, to sample from")
    for line in power_lines(args.n, args.difference):
        say(line)
    for source in sampled:
        say(f"to sample: {counted(args.n * config.images, 'image')} from {source}")
    if args.dry_run:
        return
    manifest = make_study(sources, captions, args.out, config, force=args.force)
    say(
        f"{args.out}: {counted(manifest['pairs'], 'pair')}; `unclip study serve {args.out}` shows "
        "them"
    )


def _check_execution(args: argparse.Namespace) -> None:
    """Refuse a device and ways to use it that are not there."""
    from unclip.common.devices import find_device
    from unclip.pipeline.execution import choose_compilation, choose_offload
    from unclip.pipeline.precision import choose_precision

    device = find_device(args.device)
    choose_precision(args.precision, device)
    choose_offload(args.offload, device)
    choose_compilation(args.compile, device, args.offload)


def _source(args: argparse.Namespace, arm: str) -> ArmSource:
    """The cascade or the images of --a or --b."""
    from unclip.study.new import ArmSource

    word = str(at_home(getattr(args, arm)))
    option = f"--{arm}"
    if not _is_cascade(word):
        if "://" not in word and not any(c in word for c in "*?[{:") and not Path(word).exists():
            raise UserError(f"{option} {word}: no such cascade or folder of images{meant(word)}")
        return ArmSource(option, word)
    from unclip.sharing.cache import cascade_folder

    folder = cascade_folder(word)

    def sample(captions: list[Caption], place: Path, count: int, first: int) -> None:
        from unclip.data.shard_folder import OtherRun
        from unclip.runs.sample_captions import sample_captions
        from unclip.runs.sample_plan import SampleConfig

        how = {name: getattr(args, name) for name in ("device", "precision", "offload", "compile")}

        def opened(device: str) -> Pipeline:
            own = copy.copy(args)
            own.pipeline, own.device = str(folder), device
            return open_pipeline(own)

        plan = SampleConfig(n=count, seed=first, devices=1, shard_size=64, **how)
        given = (opened, captions, place, plan)
        try:
            sample_captions(*given, settings=settings_of(args))
        except OtherRun:
            if not args.force:
                raise
            sample_captions(*given, settings=settings_of(args), force=True)

    return ArmSource(option, word, sample)


def _is_cascade(word: str) -> bool:
    """Whether ``word`` names trained stages, not images."""
    from unclip.data.shard_folder import BEGUN, MANIFEST
    from unclip.stages.row import CLIP, DECODER

    if find_cascade(word) is not None:
        return True
    path = Path(word)
    if not path.is_dir():
        return path.suffix == ".zip"
    stages = any((path / kind).is_dir() for kind in (CLIP, DECODER))
    bundle = (path / MANIFEST).is_file() and not (path / BEGUN).is_file()
    return stages or bundle
