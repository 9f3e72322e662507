"""`unclip plan`: what a training, or sampling from a cascade, will cost."""

from __future__ import annotations

import argparse
import json
import shlex
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from unclip.cli.sampling_options import add_fast
from unclip.common.errors import UserError

if TYPE_CHECKING:
    from unclip.config.load import ResolvedExperiment
    from unclip.planning.sampling import StagePart

from unclip.common.terminal import say

SAMPLE = "sample"  # a word before the cascade

EXAMPLES = """\
examples:
  unclip plan decoder/paper --gpus 64 --device h200
  unclip plan decoder/l --gpus 8 --device a100 --mfu 0.35 trainer.accumulate=4
  unclip plan prior/diffusion_paper --gpus 32 --device h100 --json
  unclip plan decoder/tiny --gpus 1 --device cpu
  unclip plan karlo/decoder --gpus 1 --device t4 trainer.precision=16-mixed
  unclip plan prior/diffusion_l --gpus 1 --device rtx4090 --memory 16GB
  unclip plan karlo
  unclip plan sample karlo --memory 8GB --precision fp16 --offload stages
  unclip plan sample decoder/paper prior/diffusion_paper upsampler/256_paper --device rtx4090
  unclip plan runs/quickstart --device cpu --batch 8 decoder.steps=50
  unclip plan karlo --device t4 --fast
"""


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the command."""
    p = commands.add_parser(
        "plan",
        help="estimate a training, or sampling from a cascade: memory, arithmetic, time",
        description="For an experiment: what its training takes, and which strategy fits. For a "
        "cascade (a folder, a bundle, or a name such as karlo, which is not downloaded for it): "
        "parameters, weights, peak memory and time of sampling, by device. Nothing is trained or "
        "drawn: one step is traced with fake tensors, which take no memory.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "experiment",
        help="kind/name (see `unclip experiments list`), a YAML file, a cascade, or a stage of a "
        "published one that is to be fine-tuned, as karlo/decoder; or the word sample, and then a "
        "cascade, or the experiments of one that is not trained yet",
    )
    p.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="key=value",
        help="fields of the experiment; of a cascade sampler settings, as decoder.steps=50",
    )
    p.add_argument("--gpus", type=int, help="experiments: number of GPUs, over all machines")
    p.add_argument(
        "--device",
        help="h200, h100, a100, v100, a10g, l4, t4, rtx5090, rtx4090, rtx3090 or cpu (this one); "
        "cascades: default all",
    )
    p.add_argument(
        "--mfu",
        type=float,
        default=0.4,
        help="share of the device's dense peak that is reached (default 0.4)",
    )
    p.add_argument("--batch", type=int, help="cascades: images at a time (default 1)")
    p.add_argument(
        "--precision",
        help="cascades: 32, bf16, fp16 or auto (default: 32 on a CPU, else bf16 or fp16)",
    )
    p.add_argument("--offload", help="cascades: none (default), stages or blocks take turns")
    p.add_argument(
        "--memory",
        help="memory of the device, as 8GB or 7.5GiB, instead of its own; cascades: of any GPU",
    )
    add_fast(p)
    p.add_argument("--json", action="store_true", help="machine-readable")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Plan and print."""
    if args.experiment == SAMPLE:
        stages = [word for word in args.overrides if "=" not in word]
        args.overrides = [word for word in args.overrides if "=" in word]
        if not stages:
            raise UserError("plan sample: name a cascade, or the experiments of one")
        return _sampling(args, stages)
    if _is_cascade(args.experiment):
        return _sampling(args, [args.experiment])
    said = {
        "batch": "data.batch_size",
        "precision": "trainer.precision",
        "offload": "trainer.cpu_offload",
    }
    for option, key in said.items():
        if getattr(args, option) is not None:
            raise UserError(f"--{option}: is for cascades; an experiment says it itself ({key})")
    if args.fast:
        raise UserError("--fast: is for cascades; a training has no sampling to shorten")
    from unclip.config.cascades import find_cascade

    path, training = Path(args.experiment), _is_yaml(args.experiment)
    of_cascade = None if training else find_cascade(str(path.parent))
    if not training and of_cascade is None:
        _require_known(args.experiment)
    for option in ("gpus", "device"):
        if getattr(args, option) is None:
            raise UserError(f"--{option}: is needed to plan a training; see `unclip plan --help`")
    from unclip.config.load import load_experiment

    clip_name = ""
    with tempfile.TemporaryDirectory() as scratch:
        if of_cascade is not None:
            from unclip.planning.cascades import imported_words, training_of
            from unclip.stages.row import CLIP

            folder = Path(scratch)
            resolved = training_of(of_cascade, path.name, args.overrides, folder)
            words = imported_words(of_cascade, path.name)
            if Path(getattr(resolved.config, CLIP, "")).is_relative_to(folder):
                clip_name = str(path.parent / CLIP)
        else:
            resolved = load_experiment(args.experiment, args.overrides)  # before slow imports
            words = [args.experiment]
        command = shlex.join(["unclip", "train", *words, *args.overrides])
        _training(args, resolved, command, clip_name)


def _training(
    args: argparse.Namespace, resolved: ResolvedExperiment, command: str, clip_name: str
) -> None:
    from unclip.planning.changes import smallest_change
    from unclip.planning.devices import read_memory
    from unclip.planning.plan import plan
    from unclip.planning.table import as_json, text

    memory = None if args.memory is None else read_memory(args.memory)
    found = plan(resolved, gpus=args.gpus, device=args.device, mfu=args.mfu, memory=memory)
    chosen = found.chosen
    change = smallest_change(found) if chosen.layout.cpu_offload or not chosen.fits else None
    if args.json:
        return say(json.dumps(as_json(found, change), indent=2), lines=True)
    say(text(found, change, command=command, clip_name=clip_name), lines=True)


def _require_known(word: str) -> None:
    """Refuse what is neither an experiment nor a cascade, whose options are others."""
    from unclip.config.cascades import meant
    from unclip.config.files import find_experiment

    try:
        find_experiment(word)
    except UserError as error:
        raise UserError(f"{error}{meant(word) or '; nor is it a folder of a cascade'}") from None


def _is_yaml(word: str) -> bool:
    return word.endswith((".yaml", ".yml"))


def _is_cascade(word: str) -> bool:
    from unclip.config.cascades import find_cascade

    path = Path(word)
    return bool(find_cascade(word) or path.is_dir() or (path.is_file() and not _is_yaml(word)))


def _sampling(args: argparse.Namespace, stages: list[str]) -> None:
    if args.gpus is not None:
        raise UserError("--gpus: is for experiments; a cascade is sampled on one device")
    from unclip.evaluation.config import read_changes
    from unclip.pipeline.settings import Settings, check_changes

    settings = Settings(read_changes(args.overrides))
    check_changes(settings)
    from unclip.planning.devices import read_memory
    from unclip.planning.sampling import plan_sampling
    from unclip.planning.sampling_table import as_json, text

    memory = None if args.memory is None else read_memory(args.memory)
    found = plan_sampling(
        " + ".join(stages),
        _parts(stages),
        batch=1 if args.batch is None else args.batch,
        names=[args.device] if args.device else [],
        precision=args.precision or "auto",
        mfu=args.mfu,
        settings=settings,
        offload=args.offload or "none",
        memory=memory,
        untrained=not _is_cascade(stages[0]),
        fast=args.fast,
    )
    say(json.dumps(as_json(found), indent=2) if args.json else text(found), lines=True)


def _parts(stages: list[str]) -> list[StagePart]:
    """The stages of a cascade, or of the experiments of one."""
    from unclip.config.cascades import find_cascade
    from unclip.planning.cascades import (
        parts_of_experiments,
        parts_of_folder,
        parts_of_published,
    )
    from unclip.sharing.cache import cascade_folder

    if len(stages) > 1 or not _is_cascade(stages[0]):
        for word in stages:
            if not _is_yaml(word):
                _require_known(word)
        return parts_of_experiments(stages)
    named = find_cascade(stages[0])
    return parts_of_published(named) if named else parts_of_folder(cascade_folder(stages[0]))
