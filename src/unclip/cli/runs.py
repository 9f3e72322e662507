"""`unclip runs`: list, show, watch and compare what was trained."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unclip.cli import runs_watch
from unclip.cli.outputs import numbered_folder, writing
from unclip.cli.sampling_options import add_force
from unclip.common.errors import UserError
from unclip.common.terminal import say

if TYPE_CHECKING:
    from unclip.tracking.index import RunRecord

EXAMPLES = {
    "list": """\
  unclip runs list
  unclip runs list prior --root runs --json
""",
    "show": """\
  unclip runs show prior/diffusion_tiny      (its newest run that did not fail)
  unclip runs show 20260101-120000-4f2a
""",
    "watch": """\
  unclip runs watch prior/diffusion_tiny
""",
    "compare": """\
  unclip runs compare runs/quickstart/prior prior/diffusion_tiny --out runs/compare
""",
}
RUN = (
    "RUN is a run's folder, the name of an experiment (its newest run that did not fail), or a "
    "part of a run's folder that no other run has."
)


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the command and its verbs."""
    p = commands.add_parser(
        "runs",
        help="list, show, watch and compare what was trained",
        description=RUN,
        **_epilog(*EXAMPLES),
    )
    verbs = p.add_subparsers(title="verbs", required=True, metavar="VERB")
    v = verbs.add_parser(
        "list",
        help="list every run under a folder, the newest first",
        description="One line per run: status, start, steps, loss, the monitored metric, time and "
        "size on disk.",
        **_epilog("list"),
    )
    v.add_argument(
        "filter",
        nargs="?",
        default="",
        help="only runs with this text in their experiment or folder",
    )
    v.add_argument("--json", action="store_true", help="machine-readable")
    _add_root(v)
    v.set_defaults(run=list_)
    v = verbs.add_parser(
        "show",
        help="print settings, results, provenance and files of a run",
        description=f"Settings are shown where they differ from the experiment's. {RUN}",
        **_epilog("show"),
    )
    v.add_argument("name", metavar="RUN", help="folder, experiment, or part of a folder's name")
    _add_root(v)
    v.set_defaults(run=show)
    _add_root(runs_watch.add_verb(verbs))
    v = verbs.add_parser(
        "compare",
        help="print where runs differ; write their curves as PNG and HTML",
        description=f"Compares settings, provenance and results of two or more runs. {RUN}",
        **_epilog("compare"),
    )
    v.add_argument("names", metavar="RUN", nargs="+", help="two or more")
    _add_root(v)
    v.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        default=Path("runs/compare"),
        help="gets compare.png and compare.html (default runs/compare)",
    )
    add_force(v)
    v.set_defaults(run=compare)


def _epilog(*verbs: str) -> dict[str, Any]:
    return {
        "epilog": "examples:\n" + "".join(EXAMPLES[verb] for verb in verbs),
        "formatter_class": argparse.RawDescriptionHelpFormatter,
    }


def _add_root(v: argparse.ArgumentParser) -> None:
    v.add_argument(
        "--root",
        type=Path,
        metavar="DIR",
        default=Path("runs"),
        help="folder of the runs (default runs); runs with a run.dir elsewhere are not listed",
    )


def list_(args: argparse.Namespace) -> None:
    """A line per run."""
    from unclip.config.listing import aligned
    from unclip.tracking import index
    from unclip.tracking.files import shown

    runs = [
        run
        for run in index.find(args.root)
        if args.filter in run.experiment or args.filter in str(run.folder)
    ]
    for run in runs:
        _note_damage(run)
    if args.json:
        say(json.dumps([run.as_dict() for run in runs], indent=2), lines=True)
        return
    if not runs:
        what = f"no run there matches {args.filter!r}" if args.filter else "there is no run in it"
        raise UserError(f"--root {args.root}: {what}; {index.ELSEWHERE}")
    lines = [["run", "experiment", "status", "started", "steps", "loss", "monitor", "time", "size"]]
    for run in runs:
        name, value = run.monitor or ("", None)
        monitor = f"{name} {shown(value)}".strip()
        lines.append(
            [
                str(run.folder.relative_to(args.root)),
                run.experiment,
                run.status,
                run.started[:16].replace("T", " "),
                "-" if run.steps is None else str(run.steps),
                shown(run.loss),
                monitor,
                _time(run.seconds),
                _size(run.bytes),
            ]
        )
    say("\n".join(aligned(lines)), lines=True)


def show(args: argparse.Namespace) -> None:
    """Everything that the run's folder says, in short."""
    from unclip.tracking import index
    from unclip.tracking.files import METRICS, SUMMARY, read_json, read_metrics

    run = index.choose(args.name, args.root)
    _note_damage(run)
    read_metrics(run.folder / METRICS, note=run.status != "running")
    summary = read_json(run.folder / SUMMARY)
    why = f" ({run.why})" if run.why else ""
    say(f"{run.folder}: {run.experiment}, {run.status}{why}")
    _section("experiment", _changed(run))
    _section("summary", _leaves(summary))
    origin = index.origin_of(run.folder)
    _section("provenance", {k: v for k, v in _leaves(origin).items() if "metrics." not in k})
    files = sorted(p for p in run.folder.iterdir() if not p.name.startswith("."))
    _section("files", {p.name + "/" * p.is_dir(): _size(index.size_of(p)) for p in files})


def _note_damage(run: RunRecord) -> None:
    """Name the files of a run that cannot be read, and therefore say nothing."""
    from unclip.tracking import status
    from unclip.tracking.files import PROVENANCE, SUMMARY, damage_of

    names = [SUMMARY, PROVENANCE, "artifact/artifact.json", f"artifact/{PROVENANCE}"]
    names += [status.FILE] * (run.status != "running")  # else it is being written
    for name in names:
        if said := damage_of(run.folder / name):
            say(f"unclip: damaged: {said}", error=True)


def _changed(run: RunRecord) -> dict[str, Any]:
    """The fields in which the run differs from the experiment file of its name, as it is now."""
    from unclip.common import yaml_text
    from unclip.config.load import load_experiment
    from unclip.tracking.files import EXPERIMENT

    own = _leaves(yaml_text.read_file(run.folder / EXPERIMENT))
    try:
        base = load_experiment(run.experiment)
    except UserError:
        return {"(base)": "no valid experiment of this name here"}
    before = _leaves(base.as_dict())
    changed = {k: v for k, v in own.items() if k not in before or v != before[k]}
    return {"(base)": str(base.files[0]), **changed}


def _section(title: str, values: dict[str, Any]) -> None:
    from unclip.tracking.files import shown

    say()
    say(title)
    width = max(map(len, values), default=0)
    for key, value in values.items():
        text = value if isinstance(value, str) else json.dumps(value)
        text = shown(value, 6) if isinstance(value, float) else text
        say(f"  {key:<{width}}  {text}")


def compare(args: argparse.Namespace) -> None:
    """Draw the curves, print the tables."""
    from unclip.common import yaml_text
    from unclip.tracking import index
    from unclip.tracking.files import EXPERIMENT

    if len(args.names) < 2:
        raise UserError("compare: name two runs or more")
    out = numbered_folder(args.out, "compare.html", force=args.force)
    runs: list[RunRecord] = []
    for name in args.names:
        run = index.choose(name, args.root)
        if any(run.folder.samefile(other.folder) for other in runs):
            raise UserError(f"{name}: {run.folder} is compared already; name another run")
        runs.append(run)
        _note_damage(run)
    from unclip.common.tables import show as show_table
    from unclip.tracking.comparison import Compared, comparison_tables, labels, write_comparison

    compared = [
        Compared.load(
            run,
            label,
            _leaves(yaml_text.read_file(run.folder / EXPERIMENT)),
            _leaves(index.origin_of(run.folder)),
        )
        for run, label in zip(runs, labels(runs))
    ]
    tables = comparison_tables(compared)
    with writing(out):
        page = write_comparison(out, compared, tables)
    for title, lines in tables.items():
        say(f"{title}: nothing" if len(lines) == 1 else f"{title}:")
        if len(lines) > 1:
            show_table(lines)
            say()
    say(f"written to {page} and {page.with_suffix('.png')}", error=True)


def _leaves(content: dict[str, Any]) -> dict[str, Any]:
    from unclip.common.fields import leaves

    return dict(leaves(content))


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}"


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
