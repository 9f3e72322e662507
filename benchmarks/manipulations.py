"""Inversion error and text edits of a cascade trained on scenes of single objects.

    .venv/bin/python benchmarks/manipulations.py [--pipeline runs/quickstart] [inversion | edits]

Inversion: PSNR at the decoder's size of inversion and reconstruction, by steps, convention and
guidance, on held-out scenes. Edits: "a red circle" to "a blue circle" and the like, with θ,
the direction and the caption t0 swept; the oracle reads whether the colour is the new one, shape
and place the old ones.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from random import Random

import torch

from unclip.common import tables
from unclip.common.images import to_uint8
from unclip.common.seeding import derive_seed
from unclip.data.config import ScenesConfig
from unclip.data.scenes.captions import caption
from unclip.data.scenes.dataset import Scenes
from unclip.data.scenes.render import COLOURS, Scene, draw
from unclip.evaluation.oracle.oracle import check
from unclip.pipeline.inputs import squares
from unclip.pipeline.pipeline import Pipeline
from unclip.pipeline.settings import Settings

HELD_OUT = 300_000  # beyond the training scenes
SCENES = ScenesConfig(
    max_objects=1, words=0, shapes=["circle", "square", "triangle", "cross", "heart"]
)
STEPS = (12, 24, 50)
CONVENTIONS = (  # convention, evaluations of each step
    ("guided_diffusion", 1),
    ("inverse_scheduler", 1),
    ("fixed_point", 2),
    ("fixed_point", 4),
    ("fixed_point", 8),
)
GUIDANCE = ((1.0, 1.0), (2.0, 2.0), (1.0, 2.0))  # of inversion, of reconstruction
THETA_MAX, THETAS = {"text": 0.6, "prior": 1.0}, 7
T0S = ("caption", "description", "dummy", "nothing")
DUMMY = "an image"
ALL = ("colour", "shape", "position")


def scenes(count: int) -> list[Scene]:
    source = Scenes(SCENES, size=64, start=HELD_OUT, count=count)
    return [source.scene(k) for k in range(count)]


def settings(steps: int, guidance: float, convention: str, iterations: int) -> Settings:
    changes = {"decoder": {"steps": steps, "guidance": guidance}}
    return Settings(changes, inversion=convention, iterations=iterations)


def inversion(pipeline: Pipeline, count: int) -> None:
    images = [draw(scene, 64) for scene in scenes(count)]
    pipeline = Pipeline(replace(pipeline.cascade, upsamplers=()))
    true = squares(images, pipeline.cascade.decoder.net.config.image_size, pipeline.cascade.device)
    rows = [["convention", "evaluations a step", "guidance", *(f"{n} steps" for n in STEPS)]]
    for there, back in GUIDANCE:
        for convention, iterations in CONVENTIONS:
            cells = [convention, str(iterations), f"{there:g}, {back:g}"]
            for steps in STEPS:
                way = settings(steps, there, convention, iterations)
                latents = pipeline.encode(images, settings=way)
                way = settings(steps, back, convention, iterations)
                found = pipeline.reconstruct(latents, settings=way).small
                psnr = 10 * torch.log10(4 / (found - true).square().mean((1, 2, 3)))
                cells.append(f"{psnr.mean():.1f} dB (x_T {latents.x_T.std():.2f})")
            rows.append(cells)
            print(*cells, flush=True)
    print(f"mean PSNR of {count} images, standard deviation of x_T in brackets\n")
    print(tables.markdown(rows))


def edits(
    pipeline: Pipeline, count: int, guidance: float, t0s: Sequence[str], directions: Sequence[str]
) -> None:
    way = Settings({"decoder": {"guidance": guidance}})
    originals = scenes(count)
    targets = [recoloured(scene) for scene in originals]
    began = time.perf_counter()
    latents = pipeline.encode([draw(scene, 64) for scene in originals], settings=way)
    print(f"{count} inversions in {time.perf_counter() - began:.0f} s", flush=True)
    rows = [["direction", "t0", "θ", "colour, shape, place", "colour", "shape and place"]]
    for way_of, name in product(directions, t0s):
        per_case, most = [], THETA_MAX[way_of]
        for k, (old, new) in enumerate(zip(originals, targets)):
            source, target = captions(name, old, new)
            one = type(latents)(latents.z_i[k : k + 1], latents.x_T[k : k + 1])
            drawn = pipeline.text_diff(
                one, source, target, most, THETAS, direction=way_of, settings=way
            )
            per_case.append([check(each, new) for each in to_uint8(drawn.image[0])])
        for at, verdicts in enumerate(zip(*per_case)):
            shares = [
                sum(v.shows(what) for v in verdicts) / count
                for what in (ALL, ("colour",), ("shape", "position"))
            ]
            theta = most * at / (THETAS - 1)
            rows.append([way_of, name, f"{theta:.2f}", *(f"{share:.0%}" for share in shares)])
            print(*rows[-1], flush=True)
        some = sum(any(v.shows(ALL) for v in verdicts) for verdicts in per_case) / count
        rows.append([way_of, name, "the best of each", f"{some:.0%}", "", ""])
        print(*rows[-1], flush=True)
    print(f"share of {count} edits\n")
    print(tables.markdown(rows))


def recoloured(scene: Scene) -> Scene:
    """The scene with its object in another colour than its own and the background's."""
    (item,) = scene.items
    rng = Random(derive_seed("recoloured", repr(scene)))
    others = [c for c in COLOURS if c != item.colour and c != scene.background]
    return replace(scene, items=(replace(item, colour=rng.choice(others)),))


def captions(t0: str, old: Scene, new: Scene) -> tuple[str | None, str]:
    """From and to: of colour and shape alone, or of all that there is, in the same wording."""
    if t0 == "description":
        source, target = (caption(scene, Random(0), detail=1.0) for scene in (old, new))
        return source, target
    return {"caption": words(old), "dummy": DUMMY, "nothing": None}[t0], words(new)


def words(scene: Scene) -> str:
    (item,) = scene.items
    return f"{'an' if item.colour[0] in 'aeiou' else 'a'} {item.colour} {item.shape}"


def main(argv: Sequence[str] | None = None) -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("what", nargs="*", default=["inversion", "edits"])
    p.add_argument("--pipeline", default="runs/quickstart")
    p.add_argument("--images", type=int, default=16, help="that are inverted")
    p.add_argument("--edits", type=int, default=50)
    p.add_argument("--guidance", type=float, default=1.0, help="of the edits")
    p.add_argument("--t0", nargs="+", choices=T0S, default=T0S)
    p.add_argument("--direction", nargs="+", choices=list(THETA_MAX), default=list(THETA_MAX))
    args = p.parse_args(argv)
    if "inversion" in args.what:
        inversion(Pipeline.load(args.pipeline), args.images)
    if "edits" in args.what:
        edits(Pipeline.load(args.pipeline), args.edits, args.guidance, args.t0, args.direction)


if __name__ == "__main__":
    main()
