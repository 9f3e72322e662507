"""`unclip experiments`: list, show, diff, validate and begin experiments."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from unclip.cli.outputs import check_folder
from unclip.common.errors import UserError
from unclip.common.terminal import say

EXAMPLES = {
    "list": """\
  unclip experiments list
  unclip experiments list prior/
  unclip experiments list cascades/    (published weights: unclip sample --pipeline karlo)
  unclip experiments list --json
""",
    "show": "  unclip experiments show prior/diffusion_l model.width=512\n",
    "diff": "  unclip experiments diff prior/tiny prior/diffusion_l\n",
    "validate": """\
  unclip experiments validate
  unclip experiments validate experiments/prior/mine.yaml
""",
    "new": """\
  unclip experiments new prior/mine --from prior/tiny model.width=256 trainer.max_steps=4000
""",
}
WHERE = """\
Files are looked for in ./experiments, in the folders of $UNCLIP_EXPERIMENTS and among the shipped
ones. Cascades to train: unclip recipe --list; published ones: cascades/.
"""


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the command and its verbs."""
    p = commands.add_parser(
        "experiments",
        help="list, show, diff, validate and create experiments",
        description="An experiment is a YAML file with everything that a stage's training needs; "
        "prior/tiny is its name. `unclip experiments VERB --help` explains a verb.",
        **_epilog(*EXAMPLES),
    )
    verbs = p.add_subparsers(title="verbs", required=True, metavar="VERB")
    v = verbs.add_parser(
        "list",
        help="list every experiment, and every published cascade, that can be found",
        description="Name, stage, parameters, hardware, what it extends and what it is for. In a "
        "pipe each has one line, without titles, and ends with its file in brackets if it is your "
        "own. Parameters are those of the trained network, with the CLIP that the file names.",
        **_epilog("list"),
    )
    v.add_argument(
        "filter",
        nargs="?",
        default="",
        help="only those with this in name, stage or purpose (`prior/`: in the name), any case",
    )
    v.add_argument("--json", action="store_true", help="every field, machine-readable")
    v.set_defaults(run=list_)
    v = verbs.add_parser(
        "show",
        help="print every field, with the file that sets it",
        description="Prints the whole experiment as YAML, including defaults and what it inherits. "
        "A comment behind each value names the file, or the command line, that sets it.",
        **_epilog("show"),
    )
    v.add_argument("experiment", help="kind/name or a YAML file")
    v.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="fields of the experiment"
    )
    v.set_defaults(run=show)
    v = verbs.add_parser(
        "diff",
        help="print the fields in which two experiments differ",
        description="One line per field: its key, its value in A and its value in B.",
        **_epilog("diff"),
    )
    v.add_argument("a", metavar="A", help="kind/name or a YAML file")
    v.add_argument("b", metavar="B", help="kind/name or a YAML file")
    v.add_argument("--json", action="store_true", help="machine-readable")
    v.set_defaults(run=diff)
    v = verbs.add_parser(
        "validate",
        help="check experiments: load each and build its network",
        description="Loads each experiment, builds its network without memory or weights, and "
        "compares its number of parameters with the file's opening comment. Exits with status 2 if "
        "any is invalid.",
        **_epilog("validate"),
    )
    v.add_argument("experiment", nargs="*", help="kind/name or a YAML file; default: all")
    v.set_defaults(run=validate)
    v = verbs.add_parser(
        "new",
        help="write an experiment that differs from another in a few fields",
        description="Writes DIR/KIND/NAME.yaml, which extends PARENT, and prints the command that "
        "trains it.",
        **_epilog("new"),
    )
    v.add_argument(
        "name", metavar="NAME", help="such as prior/mine; of mine alone the kind is that of PARENT"
    )
    v.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="fields in which it differs"
    )
    v.add_argument(
        "--from", dest="parent", metavar="PARENT", required=True, help="kind/name or a YAML file"
    )
    v.add_argument(
        "--dir", type=Path, default=Path("experiments"), help="folder (default experiments)"
    )
    v.add_argument(
        "--force",
        action="store_true",
        help="replace the file; allow the name of a shipped experiment",
    )
    v.set_defaults(run=new)


def _epilog(*verbs: str) -> dict[str, Any]:
    """The end of a help text: examples of ``verbs``, and where experiments are."""
    text = "".join(EXAMPLES[verb] for verb in verbs)
    return {
        "epilog": f"examples:\n{text}\n{WHERE}",
        "formatter_class": argparse.RawDescriptionHelpFormatter,
    }


def list_(args: argparse.Namespace) -> None:
    """What there is, and on stderr what is wrong with the rest."""
    from unclip.config import listing

    found, remarks = listing.listing()
    entries = listing.matching(found, args.filter)
    for remark in remarks:
        say(f"unclip: {remark}", error=True)
    if args.json:
        say(json.dumps([dataclasses.asdict(e) for e in entries], indent=2), lines=True)
    elif not entries:
        raise UserError(f"no experiment matches {args.filter!r}; see `unclip experiments list`")
    elif sys.stdout.isatty():
        listing.print_tables(entries)
    else:
        say("\n".join(listing.plain(entries)), lines=True)


def show(args: argparse.Namespace) -> None:
    """YAML, each value followed by where it came from."""
    from unclip.config.load import load_experiment
    from unclip.config.text import annotated

    resolved = load_experiment(args.experiment, args.overrides)
    say(f"# {resolved.name}: {' extends '.join(str(f) for f in resolved.files)}")
    for line in annotated(resolved.as_dict(), lambda key: resolved.origins.get(key, "default")):
        say(line)


def diff(args: argparse.Namespace) -> None:
    """One line per differing field: key, value in A, value in B."""
    from unclip.common import yaml_text
    from unclip.common.fields import leaves
    from unclip.config.listing import aligned
    from unclip.config.load import load_experiment

    a, b = (dict(leaves(load_experiment(name).as_dict())) for name in (args.a, args.b))
    different = [k for k in {**a, **b} if k not in a or k not in b or a[k] != b[k]]
    if args.json:
        rows = {
            key: {side: values[key] for side, values in (("a", a), ("b", b)) if key in values}
            for key in different
        }
        say(json.dumps({"a": args.a, "b": args.b, "fields": rows}, indent=2), lines=True)
    elif not different:
        say("no difference")
    else:
        shown = [
            (key, *(yaml_text.in_line(v[key]) if key in v else "-" for v in (a, b)))
            for key in different
        ]
        say("\n".join(aligned([("", args.a, args.b), *shown])), lines=True)


def validate(args: argparse.Namespace) -> None:
    """Load each experiment and build its network on the meta device."""
    from unclip.config.files import experiment_files
    from unclip.config.load import load_experiment
    from unclip.config.text import check_parameters
    from unclip.runs.parents import count_parameters

    names = args.experiment or [name for name, _ in experiment_files()]
    failed = 0
    for name in names:
        try:
            resolved = load_experiment(name)
            count = count_parameters(resolved)
            check_parameters(resolved.files[0], count)
            say(f"ok      {name}  {count:,} parameters")
        except UserError as error:
            failed += 1
            say(f"FAILED  {name}  {error}", error=True)
    if failed:
        raise UserError(f"{failed} of {len(names)} invalid")


def new(args: argparse.Namespace) -> None:
    """Write it, and say where it is and what trains it."""
    from unclip.config.load import load_experiment

    load_experiment(args.parent, args.overrides)  # before the slow imports
    check_folder(args.dir, "--dir")
    from unclip.runs.new_experiment import write

    written = write(args.name, args.parent, args.overrides, args.dir, force=args.force)
    say(written.path)
    say(written.command)
