"""`unclip experiments`: list, show, diff and validate the registry."""

from __future__ import annotations

import argparse
import json

from unclip.types import UserError

EXAMPLES = """\
examples:
  unclip experiments list
  unclip experiments list prior
  unclip experiments show prior/diffusion_l model.width=512
  unclip experiments diff prior/tiny prior/diffusion_l
  unclip experiments validate
"""


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the command and its verbs."""
    p = commands.add_parser(
        "experiments",
        help="list, show, diff and validate experiments",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = p.add_subparsers(title="verbs", required=True, metavar="VERB")
    v = verbs.add_parser("list", help="every experiment that can be found")
    v.add_argument("filter", nargs="?", default="", help="only names that contain this")
    v.add_argument("--json", action="store_true", help="machine-readable")
    v.set_defaults(run=list_)
    v = verbs.add_parser("show", help="every field, with the file that set it")
    v.add_argument("experiment")
    v.add_argument("overrides", nargs="*", metavar="key=value")
    v.set_defaults(run=show)
    v = verbs.add_parser("diff", help="the fields in which two experiments differ")
    v.add_argument("a")
    v.add_argument("b")
    v.set_defaults(run=diff)
    v = verbs.add_parser("validate", help="load experiments and build their networks (no weights)")
    v.add_argument("experiment", nargs="*", help="default: all")
    v.set_defaults(run=validate)


def list_(args: argparse.Namespace) -> None:
    """A line each: name, stage, what it is for."""
    from unclip import config, registry

    rows = []
    for name, path in registry.experiment_files():
        if args.filter in name:
            head = config.head(path)
            rows.append({"name": name, "stage": head.stage, "about": head.about, "file": str(path)})
    if args.json:
        print(json.dumps(rows, indent=2))
        return
    if not rows:
        raise UserError(f"no experiment matches {args.filter!r}; see `unclip experiments list`")
    width = max(len(r["name"]) for r in rows)
    stages = max(len(r["stage"]) for r in rows)
    for row in rows:
        print(f"{row['name']:<{width}}  {row['stage']:<{stages}}  {row['about']}".rstrip())


def show(args: argparse.Namespace) -> None:
    """YAML, each value followed by where it came from."""
    from unclip import config

    resolved = config.load(args.experiment, args.overrides)
    print(f"# {resolved.name}: {' extends '.join(str(f) for f in resolved.files)}")
    for line in _yaml(resolved.as_dict(), resolved.origins):
        print(line)


def diff(args: argparse.Namespace) -> None:
    """One line per differing field: key, value in A, value in B."""
    from unclip import config

    a, b = (dict(config.leaves(config.load(name).as_dict())) for name in (args.a, args.b))
    keys = [k for k in [*a, *(k for k in b if k not in a)] if a.get(k, "-") != b.get(k, "-")]
    if not keys:
        print("no difference")
        return
    width = max(len(k) for k in keys)
    print(f"{'':<{width}}  {args.a}  |  {args.b}")
    for key in keys:
        print(f"{key:<{width}}  {_plain(a.get(key, '-'))}  |  {_plain(b.get(key, '-'))}")


def validate(args: argparse.Namespace) -> None:
    """Load each experiment and build its network on the meta device."""
    from unclip import config, registry
    from unclip.builders import count_parameters

    names = args.experiment or [name for name, _ in registry.experiment_files()]
    failed = 0
    for name in names:
        try:
            count = count_parameters(config.load(name))
            print(f"ok      {name}  {count:,} parameters")
        except UserError as error:
            failed += 1
            print(f"FAILED  {name}  {error}")
    if failed:
        raise UserError(f"{failed} of {len(names)} experiments are not valid")


def _plain(value: object) -> str:
    return "null" if value is None else json.dumps(value)


def _yaml(content: dict, origins: dict[str, str], prefix: str = "", indent: str = "") -> list[str]:
    lines = []
    for key, value in content.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict):
            lines.append(f"{indent}{key}:")
            lines += _yaml(value, origins, f"{path}.", indent + "  ")
        else:
            line = f"{indent}{key}: {_plain(value)}"
            lines.append(f"{line:<44}  # {origins.get(path, 'default')}")
    return lines
