"""Options of every command that draws images: which trained stages, and how they sample."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from unclip.cli.command_parser import STAGES, CommandParser, seed
from unclip.common.checks import as_choice, require
from unclip.common.errors import UserError
from unclip.common.terminal import say
from unclip.common.types import Progress
from unclip.config.cascades import find_cascade, meant
from unclip.pipeline.folder import require_there

if TYPE_CHECKING:
    from unclip.pipeline.pipeline import Pipeline
    from unclip.pipeline.settings import Settings

HELP = {
    "prior": """\
Diffusion prior: sampler (ddpm | ddim | dpmpp_2m | heun | ab2 | analytic | analytic_ddim), steps,
eta, guidance, guidance_interval, clip, clip_range, candidates. Autoregressive prior: temperature,
top_k, top_p, guidance, dot_percentile, candidates.""",
    "decoder": """\
Decoder: sampler (ddpm | ddim | dpmpp_2m | heun | ab2), steps, eta, guidance, guidance_interval,
clip, clip_range.""",
    "upsampler": """\
Upsamplers: sampler, steps, eta, clip, clip_range, noise_level, start_scale; no guidance.""",
}
"""The fields of each stage's `sampler` section."""
STEPS = """\
steps: 16, 10,10,3,2,2 (of equal sections), logsnr16 (16 even in log-SNR), inner63 or fast27.
guidance_interval: the noise levels between which guidance acts, as [0.3,3]."""
PIPELINE = (
    "a cascade's folder, its bundle, a published cascade's name (karlo; `unclip experiments list "
    "cascades/`) or hf://ORG/NAME[@REVISION] (default runs/quickstart; with --clip and --decoder "
    "none)"
)


def help_of(stages: Sequence[str], note: str) -> str:
    """What the help of a command says of the settings of ``stages``."""
    example = "decoder.steps=16 decoder.guidance=3 upsampler.steps=10,10,3,2,2"
    example += " prior.candidates=4" if "prior" in stages else ""
    opening = "Any field of a stage's `sampler` section, to override what its artifact says:"
    return "\n".join(
        [opening, f"  {example}", *(HELP[s] for s in stages), STEPS, *([note] if note else [])]
    )


def add_device(p: argparse.ArgumentParser) -> None:
    """Where the networks run, in which precision, which of them are there, and compiled or not."""
    p.add_argument("--device", default="auto", help="auto (default) | cpu | cuda | cuda:1 | mps")
    add_precision(p)
    p.add_argument(
        "--offload",
        default="none",
        help="none (default) | stages: one network at a time on the GPU, the others wait in the "
        "machine's memory | blocks: one block of it at a time; same images "
        "(`unclip plan sample` says what fits)",
    )
    p.add_argument(
        "--compile",
        default="none",
        help="none (default) | blocks: the networks' blocks, compiled in the first steps and kept "
        "in the cache | graphs: also CUDA graphs for small batches",
    )


def add_precision(p: argparse.ArgumentParser) -> None:
    """In which precision the networks run."""
    p.add_argument(
        "--precision",
        default="auto",
        help="auto (default: 32 on a CPU, bf16 on a GPU that has it, else fp16) | 32 | tf32 | bf16"
        " | fp16",
    )


def add_pipeline(p: argparse.ArgumentParser) -> None:
    """Where the trained stages are, the device and the precision."""
    add_device(p)
    where = p.add_argument_group("where the trained stages are")
    where.add_argument("--pipeline", help=PIPELINE)
    where.add_argument("--clip", help="artifact or open_clip:ARCH/TAG, instead of the folder's")
    where.add_argument(
        "--prior", type=Path, help="artifact, instead of the folder's (some decoders need none)"
    )
    where.add_argument("--decoder", type=Path, help="artifact, instead of the folder's")
    where.add_argument("--upsampler", type=Path, action="append", help="artifact; repeatable")
    add_adapter(where)


def add_adapter(p: argparse._ActionsContainer) -> None:
    """Adapters of the stages."""
    p.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="PATH[:WEIGHT]",
        help="run with adapter.kind=lora, added to the stage that it was trained on, WEIGHT times "
        "(default 1); repeatable",
    )


def add_sampling(
    p: CommandParser,
    note: str = "",
    stages: Sequence[str] = STAGES,
    keep_sampler: Sequence[str] = (),
) -> None:
    """Settings of the samplers of ``stages``, as words of the command line, and `--fast`.

    ``keep_sampler`` has the stages whose sampler the command itself decides.
    """
    group = p.add_argument_group("sampling: stage.setting=value", help_of(stages, note))
    add_fast(group)
    p.sampled = tuple(stages)
    p.set_defaults(fast_for=tuple(stages), keep_sampler=tuple(keep_sampler))


def add_fast(p: argparse._ActionsContainer) -> None:
    """A quarter of the evaluations."""
    p.add_argument(
        "--fast",
        action="store_true",
        help="a quarter of each stage's own evaluations, at least 8 (upsamplers: 4), by samplers "
        "that need few; prints the settings that it chose. Settings that you give win",
    )


def add_manipulation(
    p: CommandParser,
    guidance: str = "the decoder's own",
    stages: Sequence[str] = ("decoder", "upsampler"),
) -> None:
    """Images in and their latents: what `vary`, `interpolate` and `edit` share."""
    add_output(p)
    add_pipeline(p)
    add_sampling(
        p,
        "The decoder samples with DDIM; its steps and guidance are those of the inversion too\n"
        f"(guidance: default {guidance}).",
        stages,
        keep_sampler=("decoder",),
    )
    how = p.add_argument_group("inversion")
    how.add_argument(
        "--inversion",
        default="fixed_point",
        help="guided_diffusion (the paper's) | inverse_scheduler | fixed_point (default)",
    )
    how.add_argument(
        "--iterations", type=int, default=4, help="evaluations per step of fixed_point (default 4)"
    )


def add_output(p: argparse.ArgumentParser, folder: str = "samples") -> None:
    """Seed, folder and batch."""
    p.add_argument("--seed", type=seed, default=0, help="seed of the first image (default 0)")
    p.add_argument("--out", type=Path, default=Path(folder), help=f"folder (default {folder})")
    add_force(p)
    p.add_argument("--batch", type=int, default=16, help="images at a time (default 16)")


def add_force(p: argparse.ArgumentParser) -> None:
    """Whether files that are there are replaced."""
    p.add_argument(
        "--force",
        action="store_true",
        help="replace existing files, instead of keeping them and numbering the new ones",
    )


MOST = 100_000  # images of one call, which are all held until its figure is drawn


def check_count(n: int, each: int = 1, *, least: int = 1, most: int = MOST) -> None:
    """Refuse ``--n`` below ``least``, or more than ``most`` images: ``n`` of ``each``."""
    require(n >= least, "--n", f"must be at least {least}")
    require(n * each <= most, "--n", f"{n * each:,} images are more than {most:,}; split the call")


def settings_of(args: argparse.Namespace) -> Settings:
    """What was given of `add_sampling` or `add_manipulation`, and of `add_output`.

    Raises:
        UserError: a value that no stage of its kind can have.
    """
    from unclip.evaluation.config import read_changes
    from unclip.pipeline.settings import Settings, check_changes

    own = {name: getattr(args, name) for name in ("inversion", "iterations") if name in args}
    settings = Settings(read_changes(args.sampler_words), batch=args.batch, **own)
    check_changes(settings)
    return settings


def inversion_of(settings: Settings) -> dict[str, str | int]:
    """How images were inverted, for their records."""
    return {"inversion": settings.inversion, "iterations": settings.iterations}


def named_pipeline(args: argparse.Namespace) -> str | None:
    """What --pipeline says, or else its default; None where the stages alone were given."""
    alone = args.pipeline is None and args.clip and args.decoder
    return None if alone else args.pipeline or "runs/quickstart"


def open_pipeline(args: argparse.Namespace) -> Pipeline:
    """The pipeline of `add_pipeline`'s options, and torch's deterministic algorithms.

    ``args.pipeline`` becomes the folder of the stages: of a bundle and of a published cascade it
    is in the cache. It is None where the stages alone were given. With `--fast` the stages have
    those settings, which are said, and are added to ``args.sampler_words``.
    """
    pipeline = _open(args)
    if not args.fast:
        return pipeline
    from unclip.pipeline.cascade import with_settings
    from unclip.pipeline.fast import fast_changes, samplers_of, say_fast, words_of
    from unclip.pipeline.pipeline import Pipeline
    from unclip.pipeline.settings import Settings

    there = samplers_of(pipeline.cascade)
    changes = fast_changes(
        {stage: there[stage] for stage in args.fast_for},
        settings_of(args),
        keep_sampler=args.keep_sampler,
    )
    say_fast(changes)
    args.sampler_words = [*words_of(changes), *args.sampler_words]
    return Pipeline(with_settings(pipeline.cascade, Settings(changes)))


def check_pipeline(named: str) -> None:
    """Refuse a cascade that is neither published nor there."""
    if find_cascade(named) is None:
        require_there(named, meant(named))


def check_names(args: argparse.Namespace) -> None:
    """Refuse what is no precision, offloading or compilation, before torch is imported."""
    from unclip.pipeline.settings import COMPILINGS, OFFLOADINGS, PRECISIONS

    of = {"precision": PRECISIONS, "offload": OFFLOADINGS, "compile": COMPILINGS}
    for option, known in of.items():
        name = getattr(args, option)
        as_choice(f"--{option} {name}", name, known)


def _open(args: argparse.Namespace) -> Pipeline:
    check_names(args)
    own = (args.clip, args.prior, args.decoder, args.upsampler)
    named = named_pipeline(args)
    if named and not any(own):
        check_pipeline(named)  # before the slow imports
    from unclip.common.devices import find_device
    from unclip.pipeline.execution import choose_compilation, choose_offload
    from unclip.pipeline.pipeline import Pipeline
    from unclip.pipeline.precision import choose_precision
    from unclip.sharing.cache import cascade_folder
    from unclip.training.determinism import sample_deterministically

    sample_deterministically()
    device = find_device(args.device)
    choose_precision(args.precision, device)  # before anything is fetched
    choose_offload(args.offload, device)
    choose_compilation(args.compile, device, args.offload)
    folder = args.pipeline = cascade_folder(named) if named else None
    clip, prior, upsamplers = args.clip, args.prior, args.upsampler or []
    if folder is not None:
        if not any(own):
            how = (args.precision, args.offload, args.compile, args.adapter)
            return Pipeline.load(folder, device, *how)
        clip = clip or (str(folder / "clip") if (folder / "clip").is_dir() else None)
        prior = prior or (folder / "prior" if (folder / "prior").is_dir() else None)
        upsamplers = args.upsampler or sorted(folder.glob("upsampler*"))
    pipeline = Pipeline.from_artifacts(
        clip=clip,
        prior=prior,
        decoder=args.decoder or Path(f"{folder}/decoder"),
        upsamplers=upsamplers,
        device=device,
        precision=args.precision,
        offload=args.offload,
        compile=args.compile,
        adapters=args.adapter,
    )
    if args.prior is not None and pipeline.cascade.prior is None:
        raise UserError(
            f"--prior {args.prior}: the decoder takes no image embeddings; leave it out"
        )
    return pipeline


def note_long(pipeline: Pipeline, captions: Sequence[str]) -> None:
    """Say on stderr which captions only the beginning is read of."""
    tokenizer = pipeline.cascade.tokenizer
    for caption in captions:
        count = tokenizer.count(caption)
        if count > tokenizer.context:
            say(
                f"unclip: caption {caption[:30]!r}... has {count} tokens; "
                f"the first {tokenizer.context} are read",
                error=True,
            )


@contextmanager
def step_bar() -> Iterator[Progress]:
    """A progress bar of sampling steps, which appears with the first of them."""
    from tqdm import tqdm

    from unclip.common.progress import bar_interval

    bars: list[tqdm] = []

    def count(done: int, total: int) -> None:
        if not bars:
            bars.append(tqdm(unit="step", mininterval=bar_interval()))
        bars[0].total = total
        bars[0].update(done - bars[0].n)

    try:
        yield count
    finally:
        for bar in bars:
            bar.close()


def add_allow_source(p: argparse.ArgumentParser) -> None:
    """Declare --allow-source, for commands that read the data an artifact names."""
    p.add_argument(
        "--allow-source",
        action="store_true",
        help="read the data named by an artifact that was not trained on this machine",
    )


def check_data(path: Path, args: argparse.Namespace) -> None:
    """Refuse data that only a stranger's artifact at ``path`` names, and not the user.

    ``args`` has ``data``, the user's own source, and ``allow_source``.
    """
    if args.data is None:
        from unclip.common.artifacts import describe
        from unclip.sharing.sources import check_artifact

        check_artifact(describe(path), allow=args.allow_source)
