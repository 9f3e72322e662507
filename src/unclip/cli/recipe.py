"""`unclip recipe`: a whole cascade, from nothing to a page of pictures."""

from __future__ import annotations

import argparse
import dataclasses

EXAMPLES = """\
examples:
  unclip recipe quickstart
  unclip recipe quickstart --dir runs/mine trainer.seed=1
  unclip recipe scenes_gpu
"""


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the command."""
    p = commands.add_parser(
        "recipe",
        help="train a whole cascade and show what it can do",
        description="Finished stages are kept and interrupted ones continued, so the same command "
        "can be given again.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("recipe", help="name in experiments/recipes, or a YAML file")
    p.add_argument("overrides", nargs="*", metavar="key=value", help="for every stage")
    p.add_argument("--dir", help="folder of the cascade, instead of the recipe's")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Cook it."""
    from unclip import recipes

    recipe = recipes.load(args.recipe)
    if args.dir:
        recipe = dataclasses.replace(recipe, dir=args.dir)
    print(recipes.cook(recipe, args.overrides))
