"""Options of every command that draws images: which trained stages, and how they sample."""

from __future__ import annotations

import argparse
import re
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

STAGES = ("prior", "decoder", "upsampler")
HELP = """\
Any field of a stage's `sampler` section, where it should differ from what its artifact says:
  decoder.steps=16 decoder.guidance=3 prior.candidates=4 upsampler.steps=10,10,3,2,2
Diffusion: sampler (ddpm | ddim | dpmpp_2m | heun; priors also analytic, analytic_ddim), steps,
eta, guidance, clip, clip_range; priors also candidates; upsamplers noise_level and no guidance.
Autoregressive prior: temperature, top_k, top_p, guidance, dot_percentile, candidates."""
WORD = re.compile(rf"({'|'.join(STAGES)})\.(\w+)=(.*)", re.DOTALL)
FORMER = re.compile(
    rf"--({'|'.join(STAGES)})-(steps|sampler|guidance|eta|candidates|temperature|top-k|top-p|"
    r"dot-percentile)(?:=(.*))?",
    re.DOTALL,
)


def refuse_former(words: Sequence[str]) -> None:
    """Answer the options of earlier versions with what takes their place."""
    for word, after in zip(words, [*words[1:], ""]):
        if found := FORMER.fullmatch(word):
            stage, name, value = found.groups()
            value = value or (after if not after.startswith("-") else "") or "VALUE"
            setting = f"{stage}.{name.replace('-', '_')}={value}"
            raise UserError(f"{word.partition('=')[0]}: is written {setting} now")


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Words of a command line: the others, and those that are sampler settings."""
    rest: list[str] = []
    settings: list[str] = []
    for word in words:
        (settings if WORD.fullmatch(word) else rest).append(word)
    return rest, settings


def changes_of(words: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Sampler settings by stage: ``{"decoder": {"steps": 16}}``.

    Raises:
        UserError: a value cannot be read.
    """
    from unclip.config.load import parse_override

    changes: dict[str, dict[str, Any]] = {}
    for word in words:
        key, value = parse_override(word)
        stage, _, name = key.partition(".")
        changes.setdefault(stage, {})[name] = value
    return changes


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


def add_sampling(p: argparse.ArgumentParser, note: str = "") -> None:
    """Settings of the stages' samplers, as words of the command line."""
    p.add_argument_group("sampling: stage.setting=value", HELP + (f"\n{note}" if note else ""))
    p.set_defaults(sampler_words=[])  # found by `unclip.cli`, wherever they stand


def add_manipulation(p: argparse.ArgumentParser, guidance: str = "the decoder's own") -> None:
    """Images in and their latents: what `vary`, `interpolate` and `edit` share."""
    add_output(p)
    add_pipeline(p)
    add_sampling(
        p,
        "The decoder samples with DDIM; its steps and guidance are those of the inversion too\n"
        f"(guidance: default {guidance}).",
    )
    how = p.add_argument_group("inversion")
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
    p.add_argument("--seed", type=int, default=0, help="of the first image (default 0)")
    p.add_argument("--out", type=Path, default=Path("samples"), help="folder (default samples)")
    p.add_argument("--batch", type=int, default=16, help="images at a time (default 16)")


def settings_of(args: argparse.Namespace) -> Settings:
    """What was given of `add_sampling` or `add_manipulation`, and of `add_output`."""
    from unclip.pipeline.settings import Settings

    own = {name: getattr(args, name) for name in ("inversion", "iterations") if name in args}
    settings = Settings(changes_of(args.sampler_words), batch=args.batch, **own)
    settings.check(STAGES)
    return settings


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
    if args.prior is not None and pipeline.cascade.prior is None:
        raise UserError(
            f"--prior {args.prior}: the decoder takes no image embeddings; leave it out"
        )
    return pipeline


def note_long(pipeline: Pipeline, captions: Sequence[str]) -> None:
    """Say on stderr which captions CLIP reads only the beginning of."""
    from unclip.embeddings.tokens import Tokenizer

    tokenizer = Tokenizer(pipeline.cascade.clip.model.context)
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
