"""The quickstart's cascade fine-tuned to a shape that it has never seen: stars.

    python benchmarks/finetune_stars.py --from runs/quickstart --out runs/stars
    python benchmarks/finetune_stars.py --from runs/quickstart --out runs/stars --only lora
    python benchmarks/finetune_stars.py ... --only full -- --steps 500 --preserve 0.5

Makes 300 images of stars with their captions, fine-tunes by `unclip finetune` with all weights and
with an adapter, and trains decoder and prior from nothing on the stars for as many steps. The
oracle, which knows stars, reads 50 captions of stars and 110 of the five old shapes, which are
drawn before and after by the same seeds. Writes OUT/report.json and a sheet of images each. What
stands after `--` goes to `unclip finetune`. Each call keeps what earlier ones have trained.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image

from unclip.common.images import save
from unclip.data.config import ScenesConfig
from unclip.data.scenes.dataset import Scenes, single_object_prompts
from unclip.evaluation.protocols.scenes import draw, share, sheet
from unclip.finetuning.finetune import FILE
from unclip.pipeline.pipeline import Pipeline

OLD = ["circle", "square", "triangle", "cross", "heart"]
NEW = ["star"]
IMAGES, SIZE = 300, 64
STAR_CAPTIONS, OLD_CAPTIONS = 50, 110
ADAPTERS = {"full": "none", "lora": "lora"}


def make_stars(folder: Path) -> None:
    """The images and a metadata.jsonl, unless they are there."""
    if (folder / "metadata.jsonl").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    config = ScenesConfig(shapes=NEW, max_objects=1, words=0, detail=0.95, seed=2026)
    scenes, rows = Scenes(config, size=SIZE, count=IMAGES), []
    for k in range(IMAGES):
        sample = scenes[k]
        Image.fromarray(sample.image).save(folder / f"{k:03d}.png")
        rows.append(json.dumps({"file_name": f"{k:03d}.png", "caption": list(sample.captions)}))
    (folder / "metadata.jsonl").write_text("\n".join(rows) + "\n")


def timed(commands: list[list[str]]) -> dict[str, float]:
    """Run `unclip` with each of ``commands``; the wall clock and the processor time of them."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    for words in commands:
        subprocess.run([sys.executable, "-m", "unclip", *words], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": time.perf_counter() - began, "cpu_seconds": cpu}


def from_nothing(tuned: Path, out: Path, data: Path) -> list[list[str]]:
    """Commands that train the stages of ``tuned`` on ``data`` from random weights."""
    commands = []
    for part, name, words in json.loads((tuned / FILE).read_text())["tasks"]:
        if (out / part / "artifact").exists():
            continue
        ours = ("init=", "init_teaches=", "run.dir=", "data.mixture", "data.source=", "adapter.")
        ours += ("optim.lr=", "trainer.early_stopping=")
        kept = [word for word in words if not word.startswith(ours)]
        kept += [f"data.source={data}", f"run.dir={out / part}"]
        commands.append(["train", name, *kept, "--continue"])
    return commands


def judged(folder: Path, out: Path, name: str) -> dict[str, float]:
    """What the oracle says of a cascade; its images go to ``out``."""
    pipeline = Pipeline.load(folder)
    found = {}
    for kind, shapes, count in (("star", NEW, STAR_CAPTIONS), ("old", OLD, OLD_CAPTIONS)):
        drawn = draw(pipeline, single_object_prompts(count, 1, shapes))
        found[kind] = share(drawn, "colour", "shape")
        found[f"{kind}_shape"] = share(drawn, "shape")
        save(sheet(drawn), out / f"{name}_{kind}.png")
    return found


def main() -> None:
    """Make, train, judge, report."""
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--from", dest="base", type=Path, required=True, help="a trained quickstart")
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--only", nargs="+", default=["before", "full", "lora", "nothing"])
    p.add_argument("more", nargs="*", help="options of `unclip finetune`, after --")
    args = p.parse_args()
    stars, report = args.out / "stars", args.out / "report.json"
    make_stars(stars)
    found = json.loads(report.read_text()) if report.exists() else {}
    for name in args.only:
        folder, row = args.out / name, {}
        if name in ADAPTERS:
            words = ["finetune", str(stars), "--from", str(args.base), "--out", str(folder)]
            words += ["--adapter", ADAPTERS[name], "--prompt", "a large red star", *args.more]
            row = timed([words])
        elif name == "nothing":
            row = timed(from_nothing(args.out / "full", folder, stars))
            for part in ("clip", "upsampler_64"):
                if (args.base / part).exists() and not (folder / part).exists():
                    (folder / part).symlink_to((args.base / part).resolve())
        row |= judged(args.base if name == "before" else folder, args.out, name)
        found[name] = found.get(name, {}) | {key: round(value, 4) for key, value in row.items()}
        print(name, found[name], flush=True)
        report.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
