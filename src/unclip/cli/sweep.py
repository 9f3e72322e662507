"""`unclip sweep`: many trials of an experiment, to find its best settings."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from unclip.cli.command_parser import seed
from unclip.cli.outputs import check_folder
from unclip.common.errors import UserError
from unclip.common.terminal import say

if TYPE_CHECKING:
    from unclip.config.load import ResolvedExperiment
    from unclip.sweeps.spec import Sweep

EXAMPLES = """\
examples:
  unclip sweep --list
  unclip sweep prior_lr --count 20
  unclip sweep prior_lr --count 20 --jobs 2 trainer.max_steps=100
  unclip sweep mine.yaml --count 20 --wandb

Run the same command again to resume; a larger --count adds trials.
"""


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the command."""
    p = commands.add_parser(
        "sweep",
        help="search for an experiment's best settings",
        description="Runs the trials of a sweep file, which has W&B's format, on this machine, or "
        "with --wandb as W&B suggests them. Ends in a table, an image and the best run's command.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("sweep", nargs="?", help="name in experiments/sweeps, or a YAML file")
    p.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="fields of every trial"
    )
    p.add_argument("--list", action="store_true", help="list the sweeps that can be found")
    p.add_argument("--count", type=int, help="trials in all, including earlier ones")
    p.add_argument("--dir", type=Path, help="folder (default runs/sweeps/NAME)")
    p.add_argument("--jobs", type=int, default=1, help="trials side by side (default 1)")
    p.add_argument(
        "--seed", type=seed, default=0, help="of the search, not of the trials (default 0)"
    )
    p.add_argument("--force", action="store_true", help="start over, removing the sweep in --dir")
    p.add_argument("--wandb", action="store_true", help="let W&B suggest the trials and keep them")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Check everything, search, report."""
    from unclip.sweeps import spec

    if args.list:
        _list()
        return
    if not args.sweep:
        raise UserError("no sweep: give one, as `unclip sweep prior_lr`, or --list")
    if args.jobs < 1 or (args.count is not None and args.count < 1):
        raise UserError("--count and --jobs must be at least 1")
    sweep = spec.load(args.sweep)
    trial = spec.check(sweep, args.overrides)
    if args.wandb:
        _online(sweep, args)
        return
    if args.count is None and sweep.points is None and sweep.run_cap is None:
        raise UserError(f"--count: {sweep.method} search has no end; say how many trials")
    from unclip.common.inputs import require_apart
    from unclip.sweeps import engine, results, trials

    if trial is not None:
        _announce(sweep, trial)
    folder = args.dir or Path("runs/sweeps") / sweep.name
    settings = {"sweep": sweep.content, "seed": args.seed, "overrides": args.overrides}
    check_folder(folder, "--dir")
    if args.force:
        require_apart(folder, _inputs(sweep, args.overrides), option="--dir ")
    with trials.sweep_lock(folder, force=args.force) as lock:
        found = trials.opened(folder, settings)
        engine.run(
            sweep,
            found,
            lock,
            count=args.count,
            jobs=args.jobs,
            seed=args.seed,
            command=lambda values, run_dir: sweep.process(values, args.overrides, run_dir),
        )
        results.report(sweep, found, args.overrides)


def _announce(sweep: Sweep, trial: ResolvedExperiment) -> None:
    """Say what a trial trains, and what is trained before the first; refuse what it lacks."""
    from unclip.runs.ahead import announce, describe
    from unclip.runs.parents import missing_parents, parents

    with_parents = "--with-parents" in sweep.words
    if not with_parents:
        parents(trial)  # raises, saying what is missing
    verb, name, length, time = describe(trial)
    say(f"{sweep.name}: each trial runs {verb} {name}, {length} at most; time: {time}")
    announce(trial, missing_parents(trial) if with_parents else ())


def _inputs(sweep: Sweep, overrides: list[str]) -> list[str | Path]:
    """What the trials read: an experiment's inputs or a cascade, and what is searched for them."""
    from unclip.config.load import load_experiment
    from unclip.runs.inputs import inputs_of

    verb, *words = sweep.command({p.name: p.value(p.lowest) for p in sweep.parameters}, overrides)
    name = next(word for word in words if "=" not in word and not word.startswith("-"))
    searched = [each.value(choice) for each in sweep.searched for choice in each.choices]
    found: list[str | Path] = [sweep.path, name]
    found += (choice for choice in searched if isinstance(choice, str))
    if verb == "train":
        found += inputs_of(load_experiment(name, [word for word in words if "=" in word]))
    return found


def _list() -> None:
    from unclip.config.listing import aligned
    from unclip.sweeps import spec

    rows = []
    for name in spec.files():
        try:
            sweep = spec.load(name)
        except UserError as error:
            say(f"unclip: not listed: {error}", error=True)
            continue
        goal = "max" if sweep.maximize else "min"
        rows.append((name, sweep.method, f"{goal} {sweep.metric}", sweep.about))
    say("\n".join(aligned(rows)), lines=True)


def _online(sweep: Sweep, args: argparse.Namespace) -> None:
    for option, default in (("dir", None), ("force", False), ("jobs", 1), ("seed", 0)):
        if getattr(args, option) != default:
            raise UserError(f"--{option}: is for local sweeps, not with --wandb")
    from unclip.sweeps.online import create, run_agent

    content = {**sweep.content, "command": sweep.online_command(args.overrides)}
    project, entity = content.get("project", "unclip"), content.get("entity")
    run_agent(create(content, project=project, entity=entity), args.count)
