"""`unclip demo`: a local web page to play with a trained cascade."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLES = """\
examples:
  unclip demo
  unclip demo --pipeline runs/scenes_gpu --port 8000
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
    p.add_argument(
        "--pipeline", type=Path, default=Path("runs/quickstart"), help="folder with all stages"
    )
    p.add_argument("--device", default="auto", help="auto | cpu | cuda")
    p.add_argument("--host", default="127.0.0.1", help="address to listen at (default 127.0.0.1)")
    p.add_argument("--port", type=int, default=7860, help="default 7860")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Serve until interrupted."""
    import torch

    from unclip.demo.serve import serve
    from unclip.pipeline.pipeline import Pipeline

    torch.use_deterministic_algorithms(True, warn_only=True)
    device = args.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    serve(Pipeline.load(args.pipeline, device), host=args.host, port=args.port)
