"""`unclip sample`: pictures from captions."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from unclip.types import UserError

EXAMPLES = """\
examples:
  unclip sample "a red circle above a blue square" --n 8
  unclip sample --captions captions.txt --pipeline runs/quickstart --out samples
  unclip sample "a large green star" --decoder-guidance 3 --decoder-steps 50 --seed 7
"""
AR_OPTIONS: tuple[tuple[str, type], ...] = (
    ("temperature", float),
    ("top-k", int),
    ("top-p", float),
    ("dot-percentile", float),
)
OPTIONS: tuple[tuple[str, type], ...] = (
    ("steps", str),
    ("sampler", str),
    ("guidance", float),
    ("eta", float),
)


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the command."""
    p = commands.add_parser(
        "sample",
        help="make pictures from captions",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("caption", nargs="*", help="one or more captions")
    p.add_argument("--captions", type=Path, metavar="FILE", help="more captions, one a line")
    p.add_argument("--n", type=int, default=1, help="pictures per caption (default 1)")
    p.add_argument("--seed", type=int, default=0, help="of the first picture of each caption")
    p.add_argument("--out", type=Path, default=Path("samples"), help="folder (default samples)")
    p.add_argument("--batch", type=int, default=16, help="pictures at a time (default 16)")
    p.add_argument("--device", default="auto", help="auto | cpu | cuda")
    where = p.add_argument_group("where the trained stages are")
    where.add_argument(
        "--pipeline", type=Path, default=Path("runs/quickstart"), help="folder with all of them"
    )
    where.add_argument("--clip", help="artifact or open_clip:ARCH/TAG, instead of the folder's")
    where.add_argument(
        "--prior", type=Path, help="artifact, instead of the folder's (some decoders need none)"
    )
    where.add_argument("--decoder", type=Path, help="artifact, instead of the folder's")
    where.add_argument("--upsampler", type=Path, action="append", help="artifact; repeatable")
    how = p.add_argument_group("sampling, where it should differ from the artifacts' own settings")
    for stage in ("prior", "decoder", "upsampler"):
        for name, kind in OPTIONS:
            if (stage, name) != ("upsampler", "guidance"):
                how.add_argument(f"--{stage}-{name}", type=kind)
    how.add_argument("--prior-candidates", type=int)
    for name, kind in AR_OPTIONS:
        how.add_argument(f"--prior-{name}", type=kind, help="of an autoregressive prior")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Write a PNG per picture, a labelled grid, and samples.jsonl."""
    captions = _captions(args)
    if args.n < 1 or args.batch < 1:
        raise UserError("--n and --batch must be at least 1")
    import torch
    from tqdm import tqdm

    from unclip.figures import grid, save, to_uint8
    from unclip.pipeline.pipeline import Settings

    pipeline = _pipeline(args)
    settings = Settings(_changes(args))
    pairs = [(c, args.seed + k) for c in captions for k in range(args.n)]
    images, rows = [], []
    torch.use_deterministic_algorithms(True, warn_only=True)
    terminal = sys.stderr.isatty()  # a log file gets a line now and then, not every step
    with tqdm(total=len(pairs), unit="picture", mininterval=0.1 if terminal else 20) as bar:
        for first in range(0, len(pairs), args.batch):
            chunk = pairs[first : first + args.batch]
            found = pipeline.generate(
                [c for c, _ in chunk],
                [s for _, s in chunk],
                settings=settings,
                progress=lambda done, total: bar.set_postfix_str(
                    f"step {done}/{total}", refresh=terminal
                ),
            )
            for (caption, seed), image in zip(chunk, to_uint8(found.image)):
                name = f"{_slug(caption)}_seed{seed}.png"
                save(image, args.out / name)
                images.append(image)
                rows.append({"file": name, "caption": caption, "seed": seed})
            bar.update(len(chunk))
    with (args.out / "samples.jsonl").open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    labels = [f"{row['caption']} ({row['seed']})" for row in rows]
    columns = args.n if args.n > 1 else 8
    print(save(grid(images, labels, columns=columns), args.out / "grid.png"))


def _captions(args: argparse.Namespace) -> list[str]:
    captions = list(args.caption)
    if args.captions is not None:
        try:
            captions += args.captions.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--captions {args.captions}: cannot be read: {error}") from None
    captions = [c.strip() for c in captions if c.strip()]
    if not captions:
        raise UserError('no caption: give one, as `unclip sample "a red circle"`, or --captions')
    return captions


def _changes(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    changes: dict[str, dict[str, Any]] = {}
    for stage in ("prior", "decoder", "upsampler"):
        names = [n.replace("-", "_") for n, _ in (*OPTIONS, *AR_OPTIONS)]
        for name in (*names, "candidates"):
            value = getattr(args, f"{stage}_{name}", None)
            if value is not None:
                changes.setdefault(stage, {})[name] = value
    return changes


def _pipeline(args: argparse.Namespace) -> Any:
    import torch

    from unclip.pipeline.pipeline import Pipeline

    device = args.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    own = (args.clip, args.prior, args.decoder, args.upsampler)
    if not any(own):
        return Pipeline.load(args.pipeline, device)
    folder = args.pipeline
    upsamplers = args.upsampler
    if upsamplers is None:
        upsamplers = sorted(folder.glob("upsampler*"))
    pipeline = Pipeline.from_artifacts(
        clip=args.clip or str(folder / "clip"),
        prior=args.prior or folder / "prior",
        decoder=args.decoder or folder / "decoder",
        upsamplers=upsamplers,
        device=device,
    )
    if args.prior is not None and pipeline.prior is None:
        raise UserError(
            f"--prior {args.prior}: the decoder takes no image embeddings; leave it out"
        )
    return pipeline


def _slug(caption: str) -> str:
    """A file name that says the caption: letters, digits and dashes, at most 60."""
    return re.sub(r"[^a-z0-9]+", "-", caption.lower()).strip("-")[:60] or "caption"
