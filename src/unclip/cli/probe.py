"""`unclip probe`: what a trained cascade's latents hold, and what it makes of them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from unclip.cli.command_parser import STAGES, seed
from unclip.cli.outputs import Outputs, writing
from unclip.cli.probe_inputs import check_typed
from unclip.cli.sampling_options import (
    add_force,
    add_pipeline,
    add_sampling,
    check_count,
    note_long,
    open_pipeline,
    settings_of,
    step_bar,
)
from unclip.common.seeds import seeds_from
from unclip.common.terminal import say

if TYPE_CHECKING:
    from unclip.data.scenes.render import Scene
    from unclip.evaluation.probes.probe import Probe
    from unclip.pipeline.pipeline import Pipeline

WITHOUT_PRIOR = ("decoder", "upsampler")
EXAMPLES = """\
examples:
  unclip probe conditioning --ar-prior runs/ar_prior
  unclip probe guidance "a red circle" --decoder-scales 1 2 3 4
  unclip probe guidance --decoder-scales 1 2 4 --prior-scales 1 2 4 --n 16
  unclip probe pca photo.jpg --dims 20 80 320
  unclip probe typographic apple.jpg --word iPod --label "an apple" --label "an iPod"
  unclip probe binding --n 64 --json
  unclip probe relations --n 64 --out relations
"""


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the command and its verbs."""
    p = commands.add_parser(
        "probe",
        help="inspect what the latents of a trained cascade hold",
        description="Each probe writes a figure to --out, and its measurements beside it as JSON, "
        "CSV and Markdown. Without captions or images it uses held-out scenes, and the oracle "
        "says which images are right.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = p.add_subparsers(title="verbs", required=True, metavar="VERB")
    v = _verb(verbs, "conditioning", conditioning, "caption only, z_t for z_i, and each prior")
    _add_captions(v)
    v.add_argument(
        "--ar-prior", type=Path, help="artifact (default: ar_prior of the folder, if there)"
    )
    v = _verb(verbs, "guidance", guidance, "the same captions and seeds at several scales")
    _add_captions(v)
    v.add_argument(
        "--decoder-scales",
        nargs="+",
        type=float,
        default=[1, 2, 3, 4],
        metavar="S",
        help="default 1 2 3 4, the paper's; 1 is without guidance",
    )
    v.add_argument(
        "--prior-scales",
        nargs="+",
        type=float,
        default=[],
        metavar="S",
        help="for a grid of both (default: the prior's own)",
    )
    v = _verb(verbs, "pca", pca, "images from ever more principal components of z_i", WITHOUT_PRIOR)
    v.add_argument("image", nargs="*", type=Path, help="image files (default: 4 scenes)")
    v.add_argument(
        "--dims",
        nargs="+",
        type=int,
        default=[],
        metavar="K",
        help="components (default: the paper's numbers)",
    )
    v = _verb(verbs, "typographic", typographic, "words written on an image", WITHOUT_PRIOR)
    v.add_argument("image", nargs="?", type=Path, help="image file (default: a scene)")
    v.add_argument(
        "--word",
        action="append",
        default=[],
        help="a word to write on the image; repeatable (default for a scene: two other shapes)",
    )
    v.add_argument(
        "--label",
        action="append",
        default=[],
        help="a label for CLIP to choose from, at least two; repeatable",
    )
    v.add_argument("--n", type=int, default=4, help="variations of each image (default 4)")
    for name, of in (("binding", "colours to shapes"), ("relations", "left, right, above, below")):
        v = _verb(verbs, name, pairs, f"two objects: {of}")
        v.add_argument("--n", type=int, default=32, help="images (default 32)")


def _verb(
    verbs: argparse._SubParsersAction,
    name: str,
    draw: Callable[..., Probe],
    what: str,
    stages: Sequence[str] = STAGES,
) -> argparse.ArgumentParser:
    examples = [line for line in EXAMPLES.splitlines() if f"probe {name}" in line]
    v = verbs.add_parser(
        name,
        help=what,
        description=what[0].upper() + what[1:] + ".",
        epilog="\n".join(["examples:", *examples]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    v.add_argument("--seed", type=seed, default=0, help="seed of the first image (default 0)")
    v.add_argument(
        "--out", type=Path, default=Path("probes"), help="folder to write to (default probes)"
    )
    add_force(v)
    v.add_argument("--batch", type=int, default=16, help="images at a time (default 16)")
    add_pipeline(v)
    add_sampling(v, stages=stages, keep_sampler=("decoder",) if stages == WITHOUT_PRIOR else ())
    v.add_argument("--json", action="store_true", help="print the table as JSON, nothing else")
    v.set_defaults(run=run, probe=name, draw=draw)
    return v


def _add_captions(v: argparse.ArgumentParser) -> None:
    v.add_argument("caption", nargs="*", help="captions (default: those of N held-out scenes)")
    v.add_argument(
        "--n", type=int, default=8, help="number of scenes, or of seeds per caption (default 8)"
    )


def run(args: argparse.Namespace) -> None:
    """Draw, write, print the table."""
    check_count(getattr(args, "n", 1), len(getattr(args, "caption", ())) or 1)
    seeds_from(args.seed, getattr(args, "n", 1), "--seed")
    settings = settings_of(args)
    files = [f"{args.probe}.{suffix}" for suffix in ("png", "json", "csv", "md")]
    out = Outputs(args.out, files, force=args.force)
    check_typed(args, settings)
    pipeline = open_pipeline(args)
    from unclip.common import tables
    from unclip.evaluation.probes.prompts import warnings

    with step_bar() as progress:
        found = args.draw(args, pipeline, {"settings": settings, "progress": progress})
    with writing(args.out):
        path = found.save(args.out, out.path(files[0]).stem)
    several = args.draw is pairs
    for note in [*found.notes, *(warnings(_decoder(args)) if several else [])]:
        say(f"unclip: note: {note}", error=True)
    if args.json:
        say(found.json(), lines=True)
        return
    if found.records:
        tables.show(found.lines)
    say(path)


class Asked(NamedTuple):
    """What is to be drawn; without scenes the oracle has nothing to compare with."""

    captions: list[str]
    seeds: list[int]
    scenes: list[Scene] | None


def _asked(args: argparse.Namespace, pipeline: Pipeline) -> Asked:
    from unclip.data.scenes.dataset import single_object_prompts

    seeds = seeds_from(args.seed, args.n, "--seed")
    if args.caption:
        note_long(pipeline, args.caption)
        captions = [caption for caption in args.caption for _ in seeds]
        return Asked(captions, seeds * len(args.caption), None)
    prompts = single_object_prompts(args.n, args.seed, _shapes(args))
    return Asked([p.caption for p in prompts], seeds, [p.scene for p in prompts])


def _decoder(args: argparse.Namespace) -> Path:
    return args.decoder or args.pipeline / "decoder"


def _shapes(args: argparse.Namespace) -> list[str]:
    from unclip.evaluation.probes.prompts import trained_scenes

    return trained_scenes(_decoder(args)).shapes


def conditioning(args: argparse.Namespace, pipeline: Pipeline, how: dict[str, Any]) -> Probe:
    """Figure 8."""
    from unclip.evaluation.probes.conditioning import find_ar_prior, probe_conditioning

    captions, seeds, scenes = _asked(args, pipeline)
    ar_prior = find_ar_prior(args.pipeline, args.ar_prior, pipeline)
    return probe_conditioning(pipeline, captions, seeds, scenes=scenes, ar_prior=ar_prior, **how)


def guidance(args: argparse.Namespace, pipeline: Pipeline, how: dict[str, Any]) -> Probe:
    """Figure 9."""
    from unclip.evaluation.probes.guidance import probe_guidance

    captions, seeds, scenes = _asked(args, pipeline)
    return probe_guidance(
        pipeline,
        captions,
        seeds,
        decoder_scales=args.decoder_scales,
        prior_scales=args.prior_scales,
        scenes=scenes,
        **how,
    )


def _scenes(args: argparse.Namespace, count: int) -> list[Scene]:
    from unclip.evaluation.probes.prompts import held_out_scenes, trained_scenes

    return held_out_scenes(count, args.seed, trained_scenes(_decoder(args)))


def pca(args: argparse.Namespace, pipeline: Pipeline, how: dict[str, Any]) -> Probe:
    """Figure 7."""
    from unclip.evaluation.probes.latents import probe_pca
    from unclip.evaluation.probes.prompts import images_of

    images = args.image or images_of(_scenes(args, 4))
    return probe_pca(pipeline, images, dims=args.dims, seed=args.seed, **how)


def typographic(args: argparse.Namespace, pipeline: Pipeline, how: dict[str, Any]) -> Probe:
    """Figure 6."""
    from unclip.evaluation.probes.latents import probe_typographic
    from unclip.evaluation.probes.prompts import attack, images_of

    words, labels = args.word, args.label
    if args.image is not None:
        photo = args.image
    else:
        own = attack(_scenes(args, 1)[0], _shapes(args))
        (photo,) = images_of([own.scene])
        words, labels = words or own.words, labels or own.labels
    seeds = seeds_from(args.seed, args.n, "--seed")
    return probe_typographic(pipeline, photo, words, labels, seeds=seeds, **how)


def pairs(args: argparse.Namespace, pipeline: Pipeline, how: dict[str, Any]) -> Probe:
    """Binding and relations."""
    from unclip.evaluation.probes.pairs import probe_pairs
    from unclip.evaluation.probes.prompts import binding_prompts, relation_prompts

    shapes = _shapes(args)
    prompts = binding_prompts if args.probe == "binding" else relation_prompts
    seeds = seeds_from(args.seed, args.n, "--seed")
    return probe_pairs(pipeline, prompts(args.n, args.seed, shapes), seeds, shapes, **how)
