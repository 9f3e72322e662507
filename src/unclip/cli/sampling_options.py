"""Options of every command that draws pictures: which trained stages, and how they sample."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unclip.common.errors import UserError
from unclip.common.types import Progress

if TYPE_CHECKING:
    from unclip.pipeline.pipeline import Pipeline
    from unclip.pipeline.settings import Settings

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
STAGES = ("prior", "decoder", "upsampler")


def add_pipeline(p: argparse.ArgumentParser) -> None:
    """Where the trained stages are, and the device."""
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


def add_sampling(p: argparse.ArgumentParser) -> None:
    """Settings of all stages."""
    how = _group(p)
    for stage in STAGES:
        for name, kind in OPTIONS:
            if (stage, name) != ("upsampler", "guidance"):
                how.add_argument(f"--{stage}-{name}", type=kind)
    how.add_argument("--prior-candidates", type=int)
    for name, kind in AR_OPTIONS:
        how.add_argument(f"--prior-{name}", type=kind, help="of an autoregressive prior")


def add_manipulation(p: argparse.ArgumentParser, guidance: str = "the decoder's own") -> None:
    """Pictures in and their latents: what `vary`, `interpolate` and `edit` share."""
    add_output(p)
    add_pipeline(p)
    how = _group(p)
    how.add_argument("--decoder-steps")
    how.add_argument(
        "--decoder-guidance",
        type=float,
        help=f"of inversion and drawing alike (default {guidance})",
    )
    for name, kind in OPTIONS:
        if name != "guidance":
            how.add_argument(f"--upsampler-{name}", type=kind)
    how.add_argument(
        "--inversion",
        default="fixed_point",
        help="guided_diffusion (the paper's) | inverse_scheduler | fixed_point (default)",
    )
    how.add_argument(
        "--iterations", type=int, default=4, help="evaluations a step of fixed_point (default 4)"
    )


def add_output(p: argparse.ArgumentParser) -> None:
    """Seed, folder and batch."""
    p.add_argument("--seed", type=int, default=0, help="of the first picture (default 0)")
    p.add_argument("--out", type=Path, default=Path("samples"), help="folder (default samples)")
    p.add_argument("--batch", type=int, default=16, help="pictures at a time (default 16)")


def _group(p: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    return p.add_argument_group("sampling, where it should differ from the artifacts' own settings")


def settings_of(args: argparse.Namespace) -> Settings:
    """What was given of `add_sampling` or `add_manipulation`, and of `add_output`."""
    from unclip.pipeline.settings import Settings

    own = {name: getattr(args, name) for name in ("inversion", "iterations") if name in args}
    settings = Settings(_changes(args), batch=args.batch, **own)
    settings.check(STAGES)
    return settings


def _changes(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    changes: dict[str, dict[str, Any]] = {}
    names = [name.replace("-", "_") for name, _ in (*OPTIONS, *AR_OPTIONS)]
    for stage in STAGES:
        for name in (*names, "candidates"):
            value = getattr(args, f"{stage}_{name}", None)
            if value is not None:
                changes.setdefault(stage, {})[name] = value
    return changes


def open_pipeline(args: argparse.Namespace) -> Pipeline:
    """The pipeline of `add_pipeline`'s options, and torch's deterministic algorithms."""
    import torch

    from unclip.pipeline.pipeline import Pipeline

    torch.use_deterministic_algorithms(True, warn_only=True)
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
    prior = args.prior or (folder / "prior" if (folder / "prior").is_dir() else None)
    pipeline = Pipeline.from_artifacts(
        clip=args.clip or str(folder / "clip"),
        prior=prior,
        decoder=args.decoder or folder / "decoder",
        upsamplers=upsamplers,
        device=device,
    )
    if args.prior is not None and pipeline.prior is None:
        raise UserError(
            f"--prior {args.prior}: the decoder takes no image embeddings; leave it out"
        )
    return pipeline


def note_long(pipeline: Pipeline, captions: Sequence[str]) -> None:
    """Say on stderr which captions CLIP reads only the beginning of."""
    from unclip.embeddings.tokens import Tokenizer

    tokenizer = Tokenizer(pipeline.clip.model.context)
    for caption in captions:
        count = tokenizer.count(caption)
        if count > tokenizer.context:
            print(
                f"unclip: caption {caption[:30]!r}... has {count} tokens; "
                f"CLIP reads the first {tokenizer.context}",
                file=sys.stderr,
            )


@contextmanager
def step_bar() -> Iterator[Progress]:
    """A progress bar of sampling steps."""
    from tqdm import tqdm

    from unclip.common.progress import bar_interval

    with tqdm(unit="step", mininterval=bar_interval()) as bar:

        def count(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield count
