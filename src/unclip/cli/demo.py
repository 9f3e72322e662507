"""`unclip demo`: a local web page to play with a trained cascade."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from typing import Any

from unclip.cli.sampling_options import (
    add_pipeline,
    add_sampling,
    named_pipeline,
    open_pipeline,
    settings_of,
)
from unclip.common.errors import UserError
from unclip.common.listening import check_address

EXAMPLES = """\
examples:
  unclip demo
  unclip demo --pipeline runs/scenes_gpu --port 8000
  unclip demo --pipeline runs/quickstart --compare runs/mine
  unclip demo --host 0.0.0.0 --allow-host gpu.example.org
"""


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the command."""
    p = commands.add_parser(
        "demo",
        help="play with a trained cascade in the browser",
        description="Text to image, variations, interpolation, text edit and inpainting on a page "
        "that this machine serves to itself. Needs the extra: pip install 'unclip[demo]'.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--host", default="127.0.0.1", help="address to listen at (default 127.0.0.1)")
    p.add_argument("--port", type=int, default=7860, help="default 7860")
    p.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name that visitors reach this page by, such as gpu.example.org; may be repeated",
    )
    p.add_argument(
        "--compare",
        metavar="CASCADE",
        help="another cascade, as --pipeline takes it: a tab shows both, with the same seeds",
    )
    add_pipeline(p)
    add_sampling(p, "The page's controls start from these.")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Serve until interrupted."""
    if find_spec("gradio") is None:
        raise UserError("demo: needs gradio: `pip install 'unclip[demo]'`")
    from unclip.demo.compare import names_of
    from unclip.demo.serve import serve

    check_address(args.host, args.port)
    args.batch = 1  # a visitor's image is drawn by itself
    settings = settings_of(args)
    from unclip.pipeline.cascade import with_settings
    from unclip.pipeline.pipeline import Pipeline

    first = named_pipeline(args) or str(args.decoder)
    own: dict[str, Any] = {
        "clip": None,
        "prior": None,
        "decoder": None,
        "upsampler": None,
        "adapter": [],
    }
    other = argparse.Namespace(**vars(args) | own | {"pipeline": args.compare})
    pipeline = Pipeline(with_settings(open_pipeline(args).cascade, settings))
    compared = None
    if args.compare is not None:
        one, two = names_of(first, args.compare)
        compared = {one: pipeline, two: open_pipeline(other)}
    serve(pipeline, host=args.host, port=args.port, names=args.allow_host, compared=compared)
