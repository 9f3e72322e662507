"""`unclip train`: one experiment, from data to artifact."""

from __future__ import annotations

import argparse

EXAMPLES = """\
examples:
  unclip train clip/tiny
  unclip train prior/diffusion_l data.source=photos.parquet clip=open_clip:ViT-L-14/openai
  unclip train decoder/tiny run.dir=runs/mine trainer.max_steps=5000
  unclip train decoder/tiny run.dir=runs/mine trainer.max_steps=5000 --resume
  unclip train prior/tiny tracking.wandb=true   (Weights & Biases gets the metrics too)
"""


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the command."""
    p = commands.add_parser(
        "train",
        help="train an experiment and export its artifact",
        description="Trains a stage, writes checkpoints, metrics and samples into the run's folder "
        "(runs/KIND/NAME/..., or run.dir), and at the end the artifact that other stages and "
        "`unclip sample` use. An interrupted run continues with --resume.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("experiment", help="kind/name (see `unclip experiments list`) or a YAML file")
    p.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="key=value",
        help="fields of the experiment; run.dir=FOLDER is the run's folder",
    )
    p.add_argument("--resume", action="store_true", help="continue the newest checkpoint")
    p.add_argument(
        "--continue",
        dest="continues",
        action="store_true",
        help="continue run.dir where it has a checkpoint, else start it (for requeued jobs)",
    )
    p.add_argument("--force", action="store_true", help="replace what is in run.dir")
    p.add_argument(
        "--with-parents",
        action="store_true",
        help="first train what it depends on and has no finished run (listed before it begins)",
    )
    p.add_argument(
        "--allow-source",
        action="store_true",
        help="with --resume: read the data named by a run that was not started on this machine",
    )
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Resolve, train, and show what came of it."""
    from unclip.config.load import load_experiment

    resolved = load_experiment(args.experiment, args.overrides)  # before the slow imports
    from unclip.runs.folders import Start, folder_to_resume, shared_folder, where_it_stopped
    from unclip.runs.train import train
    from unclip.sharing.sources import check_resumed
    from unclip.tracking.report import summary_table

    start = where_it_stopped(resolved) if args.continues else Start(args.resume, args.force)
    if start.resume:
        folder = shared_folder(resolved) or folder_to_resume(resolved)
        check_resumed(resolved, folder, allow=args.allow_source)
    finished = train(resolved, **start._asdict(), with_parents=args.with_parents)
    summary_table([finished])
