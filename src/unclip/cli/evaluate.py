"""`unclip evaluate`: how good priors or upsamplers are, side by side, or a whole cascade."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unclip.cli.command_parser import CommandParser, seed
from unclip.cli.evaluate_cascade import cascade_parser
from unclip.cli.evaluate_guidance import guidance_parser
from unclip.cli.evaluate_images import compare_parser, images_parser
from unclip.cli.outputs import check_file, check_folder, writing
from unclip.cli.sampling_options import (
    add_adapter,
    add_allow_source,
    add_fast,
    add_force,
    check_count,
    check_data,
)
from unclip.common.checks import require
from unclip.common.terminal import say

if TYPE_CHECKING:
    from unclip.pipeline.settings import Settings

EXAMPLES = """\
examples:
  unclip evaluate prior/ar_tiny
  unclip evaluate prior/ar_tiny prior/diffusion_tiny --n 1000 --out priors.md
  unclip evaluate runs/quickstart/prior prior.steps=16 --json
  unclip evaluate upsampler/tiny --image side_by_side.png
  unclip evaluate upsampler/photos --kind none --data photos.tar --n 16
  unclip evaluate runs/quickstart decoder.guidance=3 decoder.steps=16 run.dir=runs/guided
  unclip evaluate runs/quickstart --adapter runs/mine:0.5

sets of images (FID and others; each has its own --help):
  unclip evaluate images GENERATED --reference REAL --features inception
  unclip evaluate cascade CASCADE --protocol coco30k --annotations FILE --images DIR --out DIR
  unclip evaluate guidance CASCADE GLIDE --protocol coco30k --annotations FILE ... --scales 1 2 4
  unclip evaluate compare A.json B.json
"""

PRIORS_ONLY, UPSAMPLERS_ONLY = ("clip",), ("kind", "image")


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the command."""
    p: CommandParser = commands.add_parser(
        "evaluate",
        help="evaluate trained priors or upsamplers, side by side, or a cascade",
        description="Priors: draws an image embedding for each held-out caption and compares it "
        "with the true one. Upsamplers: enlarges held-out images, reduced and corrupted, and "
        "compares them with the originals. A cascade (a folder of stages) draws captions of "
        "scenes, and the oracle reads its images.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "stage",
        nargs="+",
        help="experiment with a finished run, run, or artifact; and sampler settings "
        "(prior.steps=16, upsampler.eta=1), for a cascade also objects=2, run.dir=DIR",
    )
    p.add_argument("--n", type=int, help="held-out samples (default: priors 1000, upsamplers 64)")
    p.add_argument(
        "--batch", type=int, help="samples at a time (default: priors 100, upsamplers 4)"
    )
    p.add_argument("--seed", type=seed, help="of the sampling (default 0)")
    p.add_argument(
        "--clip", help="priors: artifact or open_clip:ARCH/TAG, if the CLIP is elsewhere now"
    )
    p.add_argument(
        "--data",
        metavar="SOURCE",
        help="another source of held-out samples (default: what it was trained on)",
    )
    add_allow_source(p)
    p.add_argument("--kind", help="upsamplers: another corruption.kind (default: the stage's own)")
    p.add_argument(
        "--image", type=Path, help="upsamplers: also write some images side by side, as PNG"
    )
    add_adapter(p)
    add_fast(p)
    p.add_argument("--json", action="store_true", help="print JSON instead of a table")
    p.add_argument("--out", type=Path, help="also write the table as Markdown")
    p.add_argument("--picture", dest="former_image", type=Path, help=argparse.SUPPRESS)
    p.add_argument("--steps", help=argparse.SUPPRESS)
    add_force(p)
    p.reads_settings = True
    p.verbs = {
        "images": images_parser(),
        "cascade": cascade_parser(),
        "guidance": guidance_parser(),
        "compare": compare_parser(),
    }
    p.set_defaults(run=run, overrides=[])


def run(args: argparse.Namespace) -> None:
    """Measure each, print one table."""
    from unclip.common.errors import UserError
    from unclip.runs.folders import trained
    from unclip.stages import registry

    if args.steps is not None:
        new = f"prior.steps={args.steps} or upsampler.steps={args.steps}"
        raise UserError(f"--steps: has been replaced by {new}")
    if args.former_image is not None:
        say("unclip: note: --picture: has been renamed to --image", error=True)
        args.image = args.former_image
    given = [word for word in (*args.stage, *args.overrides) if "=" in word]
    args.stage = [word for word in args.stage if "=" not in word]
    if args.image is not None and args.image.suffix.lower() != ".png":
        raise UserError(f"--image {args.image}: is written as PNG; name it .png")
    for option in ("out", "image"):
        check_file(getattr(args, option), f"--{option}", force=args.force)
    if any(_is_cascade(name) for name in args.stage):
        _cascade(args, given)
        return
    if not args.stage:
        raise UserError("evaluate: name a stage or a cascade to evaluate")
    if args.adapter:
        raise UserError("--adapter: is for a cascade; a run with an adapter is evaluated by itself")
    stages = _stages_of(args.stage)
    kind = f"{registry.STAGES[stages[0]].kind}s"
    settings = _settings(given, args.stage, stages, fast=args.fast)
    for option in PRIORS_ONLY if kind == "upsamplers" else UPSAMPLERS_ONLY:
        if getattr(args, option) is not None:
            raise UserError(f"--{option}: does not apply to {kind}")
    least, n, batch = (2, 1000, 100) if kind == "priors" else (1, 64, 4)
    args.n = n if args.n is None else args.n
    args.batch = batch if args.batch is None else args.batch
    args.seed = 0 if args.seed is None else args.seed
    check_count(args.n, least=least)
    require(args.batch >= 1, "--batch", "must be at least 1")
    for name in args.stage:
        check_data(trained(name), args)
    (_priors if kind == "priors" else _upsamplers)(args, settings)


def _is_cascade(name: str) -> bool:
    from unclip.config.cascades import find_cascade

    path = Path(name)
    return (path / "decoder").is_dir() or path.is_file() or find_cascade(name) is not None


def _stages_of(names: Sequence[str]) -> list[str]:
    """The stage of each of ``names``: all priors, or all upsamplers."""
    from unclip.common import artifacts
    from unclip.common.errors import UserError
    from unclip.runs.folders import trained
    from unclip.stages import registry
    from unclip.stages.row import PRIOR, UPSAMPLER

    stages = [artifacts.describe(trained(name), key="evaluate").stage for name in names]
    kinds = [registry.STAGES[stage].kind for stage in stages]
    for name, stage, kind in zip(names, stages, kinds):
        if kind not in (PRIOR, UPSAMPLER):
            raise UserError(
                f"{name}: {stage}: only priors, upsamplers and cascades can be evaluated"
            )
    if len(set(kinds)) > 1:
        listed = ", ".join(f"{name} ({stage})" for name, stage in zip(names, stages))
        raise UserError(f"evaluate: give priors alone or upsamplers alone, not both: {listed}")
    return stages


def _settings(
    words: Sequence[str], names: Sequence[str], stages: Sequence[str], *, fast: bool
) -> list[Settings]:
    """Sampler settings for each of ``names``: those that its ``stages``' sampler has.

    Raises:
        UserError: a word that is not a setting, one that none of the stages has, or a value that
            one of them cannot be sampled with.
    """
    from unclip.common.errors import UserError
    from unclip.evaluation.config import read_changes
    from unclip.evaluation.protocols import priors, upsamplers
    from unclip.pipeline.settings import Settings, for_each
    from unclip.runs.folders import trained
    from unclip.stages import registry
    from unclip.stages.row import PRIOR

    kind = registry.STAGES[stages[0]].kind
    for word in words:
        if not word.startswith(f"{kind}."):
            raise UserError(
                f"{word}: {kind}s have no such setting; theirs look like {kind}.steps=16"
            )
    samplers = [registry.STAGES[stage].sampler() for stage in stages]  # type: ignore[misc]
    settings = for_each(Settings(read_changes(words)), kind, samplers)
    if fast:
        settings = [_fast(*each) for each in zip(names, stages, settings)]
    for name, own in zip(names, settings):
        (priors if kind == PRIOR else upsamplers).check_settings(trained(name), own)
    return settings


def _fast(name: str, stage: str, given: Settings) -> Settings:
    """``given`` with what `--fast` adds for the trained stage ``name``, which it says."""
    from unclip.common import artifacts
    from unclip.pipeline.fast import fast_changes, say_fast, with_changes
    from unclip.runs.folders import trained
    from unclip.stages import registry

    row = registry.STAGES[stage]
    stored: Any = artifacts.describe(trained(name), key="evaluate").stored(row.experiment)
    changes = fast_changes({row.kind: [stored.sampler]}, given)
    say_fast(changes, of=name)
    return with_changes(given, changes)


def _cascade(args: argparse.Namespace, given: list[str]) -> None:
    from unclip.common import tables
    from unclip.common.errors import UserError
    from unclip.evaluation.config import read_evaluation

    for option in (*PRIORS_ONLY, *UPSAMPLERS_ONLY, "data"):
        if getattr(args, option) is not None:
            raise UserError(f"--{option}: does not apply to a cascade")
    if len(args.stage) != 1:
        raise UserError("evaluate: give one cascade, and nothing else, at a time")
    values = {name: getattr(args, name) for name in ("n", "batch", "seed")}
    values = {name: value for name, value in values.items() if value is not None}
    wanted, settings = read_evaluation(given, values)
    check_count(wanted.n)
    if wanted.run.dir:
        written = Path(wanted.run.dir)
        check_folder(written, "run.dir")
        if (written / "experiment.yaml").exists():
            raise UserError(f"run.dir={written}: holds a training run; name another folder")
        if (written / "summary.json").exists() and not args.force:
            raise UserError(f"run.dir={written}: holds an evaluation; name another, or add --force")
    from unclip.evaluation.protocols.cascades import evaluate_cascade
    from unclip.sharing.cache import cascade_folder

    folder = cascade_folder(args.stage[0])
    metrics = evaluate_cascade(
        str(folder), wanted, settings, fast=args.fast, adapters=args.adapter
    ).metrics
    lines = [["", args.stage[0]], *([name, f"{value:.4g}"] for name, value in metrics.items())]
    say(json.dumps(metrics, indent=2), lines=True) if args.json else tables.show(lines)
    if args.out:
        _write(args.out, tables.markdown(lines))


def _priors(args: argparse.Namespace, settings: list[Settings]) -> None:
    from unclip.evaluation.metrics.priors import as_json, markdown, show
    from unclip.evaluation.protocols.priors import evaluate_prior
    from unclip.runs.folders import trained

    rows = [
        evaluate_prior(
            trained(name),
            title=name,
            n=args.n,
            batch=args.batch,
            seed=args.seed,
            settings=how,
            clip=args.clip,
            source=args.data,
        )
        for name, how in zip(args.stage, settings)
    ]
    say(as_json(rows), lines=True) if args.json else show(rows)
    if args.out:
        _write(args.out, markdown(rows))


def _upsamplers(args: argparse.Namespace, settings: list[Settings]) -> None:
    from unclip.common.images import save
    from unclip.evaluation.metrics.upsamplers import as_json, markdown, sheet, show
    from unclip.evaluation.protocols.upsamplers import evaluate_upsampler
    from unclip.runs.folders import trained

    judged = [
        evaluate_upsampler(
            trained(name),
            title=name,
            n=args.n,
            batch=args.batch,
            seed=args.seed,
            settings=how,
            source=args.data,
            kind=args.kind,
        )
        for name, how in zip(args.stage, settings)
    ]
    results = [each.result for each in judged]
    say(as_json(results), lines=True) if args.json else show(results)
    if args.out:
        _write(args.out, markdown(results))
    if args.image:
        with writing(args.image, "--image"):
            save(sheet([row for each in judged for row in each.rows]), args.image)


def _write(path: Path, text: str) -> None:
    from unclip.common.atomic import atomic_write

    with writing(path), atomic_write(path) as scratch:
        scratch.write_text(text, encoding="utf-8")
