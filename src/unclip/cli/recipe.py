"""`unclip recipe`: a whole cascade, from nothing to a page of images."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from unclip.cli.outputs import check_folder
from unclip.common.errors import UserError
from unclip.common.terminal import say

EXAMPLES = """\
examples:
  unclip recipe --list
  unclip recipe quickstart
  unclip recipe quickstart --dir runs/mine trainer.seed=1
  unclip recipe scenes_gpu
"""


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the command."""
    p = commands.add_parser(
        "recipe",
        help="train a whole cascade and show what it can do",
        description="Trains the stages of a recipe, each into a folder of the cascade, then "
        "writes a page of images of held-out captions. First prints what will be trained. Finished "
        "stages are kept and interrupted ones continued: run the same command again to resume.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("recipe", nargs="?", help="name in experiments/recipes, or a YAML file")
    p.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="fields of every stage"
    )
    p.add_argument("--dir", help="folder of the cascade, instead of the recipe's")
    p.add_argument("--list", action="store_true", help="list the recipes that can be found")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Run it, or list what there is."""
    if args.list:
        return _list()
    if args.recipe is None:
        raise UserError("no recipe: give one of `unclip recipe --list`")
    from unclip.runs.recipe import load, run_recipe

    recipe = load(args.recipe)
    if args.dir:
        recipe = dataclasses.replace(recipe, dir=args.dir)
    check_folder(Path(recipe.dir), "--dir")
    say(run_recipe(recipe, args.overrides))


def _list() -> None:
    from unclip.common import yaml_text
    from unclip.config.files import yaml_files
    from unclip.config.listing import aligned
    from unclip.config.text import opening

    rows = []
    for name, (path, *_) in yaml_files("recipes").items():
        try:
            about = str(yaml_text.read_file(path).get("about", ""))
        except UserError as error:
            say(f"unclip: not listed: {error}", error=True)
            continue
        notes = opening(path)
        rows.append((name.split("/")[1], notes.get("hardware", "-"), notes.get("time", "-"), about))
    say("\n".join(aligned(rows)), lines=True)
