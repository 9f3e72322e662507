"""`unclip plan`: what a training, or sampling from a cascade, will cost."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from unclip.common.errors import UserError

if TYPE_CHECKING:
    from unclip.config.cascades import NamedCascade

from unclip.common.terminal import say

EXAMPLES = """\
examples:
  unclip plan decoder/paper --gpus 64 --device h200
  unclip plan decoder/l --gpus 8 --device a100 --mfu 0.35 trainer.accumulate=4
  unclip plan prior/diffusion_paper --gpus 32 --device h100 --json
  unclip plan decoder/tiny --gpus 1 --device cpu
  unclip plan karlo
  unclip plan runs/quickstart --device cpu --batch 8 decoder.steps=50
"""


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the command."""
    p = commands.add_parser(
        "plan",
        help="estimate a training, or sampling from a cascade: memory, arithmetic, time",
        description="Of an experiment: what its training takes, and which strategy fits. Of a "
        "cascade (a folder, a bundle, or a name such as karlo, which is not downloaded for it): "
        "parameters, weights, peak memory and time of sampling, by device. Nothing is trained or "
        "drawn: one step is traced with fake tensors, which take no memory.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "experiment",
        help="kind/name (see `unclip experiments list`), a YAML file, or a cascade",
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
        help="share of the device's dense peak at which it computes (default 0.4)",
    )
    p.add_argument("--batch", type=int, help="cascades: images at a time (default 1)")
    p.add_argument(
        "--precision",
        help="cascades: 32, bf16, fp16 or auto (default: 32 on a CPU, else bf16 or fp16)",
    )
    p.add_argument("--json", action="store_true", help="machine-readable")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Plan and print."""
    from unclip.config.cascades import find_cascade

    named, path = find_cascade(args.experiment), Path(args.experiment)
    training = path.suffix in (".yaml", ".yml")
    if named or path.is_dir() or (path.is_file() and not training):
        return _sampling(args, named)
    for option, key in (("batch", "data.batch_size"), ("precision", "trainer.precision")):
        if getattr(args, option) is not None:
            raise UserError(f"--{option}: is for cascades; an experiment says it itself ({key})")
    if not training:
        _require_known(args.experiment)
    for option in ("gpus", "device"):
        if getattr(args, option) is None:
            raise UserError(f"--{option}: is needed to plan a training; see `unclip plan --help`")
    from unclip.config.load import load_experiment

    resolved = load_experiment(args.experiment, args.overrides)  # before the slow imports
    from unclip.planning.plan import plan
    from unclip.planning.table import as_json, text

    found = plan(resolved, gpus=args.gpus, device=args.device, mfu=args.mfu)
    say(json.dumps(as_json(found), indent=2) if args.json else text(found), lines=True)


def _require_known(word: str) -> None:
    """Refuse what is neither an experiment nor a cascade, whose options are others."""
    from unclip.config.cascades import meant
    from unclip.config.files import find_experiment

    try:
        find_experiment(word)
    except UserError as error:
        raise UserError(f"{error}{meant(word) or '; nor is it a folder of a cascade'}") from None


def _sampling(args: argparse.Namespace, named: NamedCascade | None) -> None:
    if args.gpus is not None:
        raise UserError("--gpus: is for experiments; a cascade is sampled on one device")
    from unclip.evaluation.config import read_changes
    from unclip.pipeline.settings import Settings, check_changes

    settings = Settings(read_changes(args.overrides))
    check_changes(settings)
    from unclip.planning.cascades import parts_of_folder, parts_of_published
    from unclip.planning.sampling import plan_sampling
    from unclip.planning.sampling_table import as_json, text
    from unclip.sharing.cache import cascade_folder

    found = plan_sampling(
        args.experiment,
        parts_of_published(named) if named else parts_of_folder(cascade_folder(args.experiment)),
        batch=1 if args.batch is None else args.batch,
        names=[args.device] if args.device else [],
        precision=args.precision or "auto",
        mfu=args.mfu,
        settings=settings,
    )
    say(json.dumps(as_json(found), indent=2) if args.json else text(found), lines=True)
