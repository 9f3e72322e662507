"""Makes `old_files.tar.xz` and `expected.json`: files as unclip wrote them at revision 11735b8.

It was run once, at that revision: `python tests/old_files/make_old_files.py`. Do not run it with
newer code to mend a failing test: a failure says that files of former times no longer load, or
that a run no longer gives the bits that it gave. It is kept to show how the files came to be.
"""

from __future__ import annotations

import io
import json
import lzma
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

import torch
from measures import (
    ARCHIVE,
    CASCADE,
    DRAWN,
    EXPECTED,
    FOLDER,
    LONGER,
    TRAINED,
    draw,
    longer,
    losses,
    machine,
    twenty_five_steps,
    unclip,
    weights_sha256,
)
from PIL import Image, ImageDraw

REVISION = "11735b8"

COMMON = """\
# As experiments were written then: what is the default today is said all the same.
check: none
data: {source: scenes, batch_size: 4, val_samples: 4, num_workers: 0, crop: center, on_error: skip,
       scenes: {count: 64}}
optim: {name: adamw, lr: 2.0e-2, schedule: constant}
trainer: {max_steps: 8, val_every: 4, sample_every: 0, checkpoint_every: 8, log_every: 1, seed: 3,
          precision: "32", accelerator: cpu, deterministic: strict, threads: 1, compile: none,
          attention: math, activation_checkpointing: none, strategy: auto, keep_checkpoints: 1}
tracking: {wandb: false, log_weights: false}
"""
EXPERIMENTS = {
    "clip": """\
stage: clip
about: a CLIP whose token table is as narrow as it can be
model: {embed_dim: 8, image_size: 16, vision: vit, patch_size: 8, vision_width: 8, vision_layers: 1,
        vision_head_width: 4, context: 16, text_width: 4, text_layers: 1, text_heads: 1}
optim: {lr: 1.0e-3, sam_rho: 0.05, schedule: cosine}
""",
    "pca": """\
stage: pca
clip: cascade/clip
check: none
data: {source: scenes, batch_size: 4, scenes: {count: 64}}
trainer: {accelerator: cpu, deterministic: strict, threads: 1, seed: 3}
pca: {components: 4, max_error: null, buckets: 8, edges: quantile, reservoir: 64}
""",
    "prior": """\
stage: diffusion_prior
clip: cascade/clip
model: {caption: clip, width: 8, layers: 1, heads: 2, standardise: true}
diffusion: {steps: 100, schedule: cosine, prediction: x0, variance: fixed_small, timesteps: uniform}
sampler: {sampler: analytic, steps: 4, eta: 0.0, guidance: 2.0, clip: none, candidates: 2}
ema: {decay: 0.9, warmup: true}
drop_text: 0.2
optim: {lr: 1.0e-2}
trainer: {max_steps: 60, val_every: 20, checkpoint_every: 60}
""",
    "ar_prior": """\
stage: ar_prior
clip: cascade/clip
pca: cascade/pca
model: {caption: clip, context: 8, width: 8, layers: 1, heads: 2}
sampler: {temperature: 0.9, guidance: 2.0, candidates: 2}
data: {embeddings: embeddings}
optim: {name: muon}
ema: {decay: 0.9}
""",
    "decoder": """\
stage: decoder
clip: cascade/clip
model:
  image_size: 16
  null_z_i: learned
  use_caption: false
  clip_tokens: 2
  text: {width: 8, layers: 1, heads: 2}
  unet: {channels: 4, blocks: 1, multiples: [1, 1], attention: [8], head_channels: 4,
         norm_groups: 2, dropout: 0.1}
diffusion: {steps: 100, prediction: eps, variance: learned_range, timesteps: importance}
sampler: {sampler: ddim, steps: 4, guidance: 2.0, clip: static, clip_range: 1.0}
embedding: image
ema: {decay: 0.9, warmup: false}
""",
    "upsampler": """\
stage: upsampler
model:
  image_size: 32
  low_size: 16
  noise_levels: 20
  unet: {channels: 4, blocks: 1, multiples: [1], attention: [], norm_groups: 2, dropout: 0.0}
diffusion: {steps: 100, prediction: eps, variance: learned_range}
corruption: {kind: bsr_light, probability: 0.75}
sampler: {sampler: dpmpp_2m, steps: 4, clip: dynamic, noise_level: 3}
data: {crop_fraction: 0.5, flip: true}
ema: {decay: 0.9}
""",
}
SWEEP = """\
name: prior_lr
description: "two learning rates of the prior"
project: unclip
method: grid
metric: {name: val/loss, goal: minimize}
parameters:
  optim.lr: {values: [1.0e-2, 3.0e-2]}
command: ["${env}", python, -m, unclip, train, experiments/prior.yaml, tracking.wandb=true,
          "${args_no_hyphens}"]
"""
RECIPE = """\
about: the cascade of the old files
dir: cascade
clip: experiments/clip.yaml
prior: experiments/prior.yaml
decoder: experiments/decoder.yaml
upsamplers: [experiments/upsampler.yaml]
pca: experiments/pca.yaml
together: false
prompts: 2
"""


def run(*words: str, status: int = 0) -> str:
    """A command, noted in provenance as one that was typed; returns what it prints."""
    sys.argv = ["unclip", *words]
    said = io.StringIO()
    with redirect_stdout(said):
        found = unclip(*words)
    assert found == status, f"{words}: exit status {found}"
    return said.getvalue()


def make_experiments() -> None:
    """Experiment files, and every shipped one with all of its fields."""
    folder = Path("experiments")
    folder.mkdir()
    (folder / "common.yaml").write_text(COMMON)
    for name, text in EXPERIMENTS.items():
        extends = "" if name == "pca" else "extends: common.yaml\n"
        (folder / f"{name}.yaml").write_text(extends + text)
    (folder / "sweep.yaml").write_text(SWEEP)
    (folder / "recipe.yaml").write_text(RECIPE)
    shipped = Path("shipped")
    for entry in json.loads(run("experiments", "list", "--json")):
        file = shipped / f"{entry['name']}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        text = run("experiments", "show", entry["name"])
        lines = [line.split("  # ")[0].rstrip() for line in text.splitlines()]
        file.write_text("\n".join(lines[1:]) + "\n")  # without the places that fields came from


def experiment_files() -> list[str]:
    """Every experiment that is packed, those of the runs too."""
    own = [f"experiments/{name}.yaml" for name in CASCADE]
    return own + [
        str(p)
        for p in sorted([*Path("shipped").rglob("*"), *Path().glob("*/*/experiment.yaml")])
        if p.is_file()
    ]


def interrupted(words: list[str]) -> None:
    """The command, told to end after three steps, as a cluster would tell it."""
    from unclip.training.checkpoint_callback import CheckpointCallback

    note = CheckpointCallback._note

    def told(self, loss, norm, batch, step):
        note(self, loss, norm, batch, step)
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    CheckpointCallback._note = told
    run(*words, status=75)
    CheckpointCallback._note = note


def make_runs() -> None:
    """The cascade, and of each trained stage a run that was stopped."""
    for name in CASCADE:
        words = ["fit-pca" if name == "pca" else "train", f"experiments/{name}.yaml"]
        run(*words, f"run.dir=cascade/{FOLDER[name]}")
        if name in TRAINED:
            interrupted([*words, f"run.dir=stopped/{name}"])
        if name == "clip":
            words = ["embed", "scenes", "--clip", "cascade/clip", "--out", "embeddings"]
            run(*words, "--batch-size", "16", "data.scenes.count=64", "--accelerator", "cpu")
    run("fit-variance", "cascade/prior", "--samples", "16", "--steps", "4", "--steps", "6")
    for name in ("ar_prior", "decoder", "upsampler"):  # as people do who need the room
        shutil.rmtree(Path("cascade") / FOLDER[name] / "checkpoints")
    Path("cascade/pca/spectrum.png").unlink()


def make_more() -> None:
    """Pictures, bundles, a sweep."""
    for name, ground, colour in (("picture", "white", "red"), ("picture_2", "navy", "yellow")):
        picture = Image.new("RGB", (48, 32), ground)
        ImageDraw.Draw(picture).ellipse((4, 6, 24, 26), fill=colour)
        picture.save(f"{name}.png")
    run("share", "cascade/prior", "--to", "prior.zip", "--weights", "--license", "cc-by-4.0")
    run("share", "cascade/ar_prior", "--to", "ar_prior.zip")
    words = ["sweep", "experiments/sweep.yaml", "--dir", "sweep", "--count", "1"]
    run(*words)
    for folder in Path("sweep").rglob("checkpoints"):
        shutil.rmtree(folder)
    Path("sweep/sweep.png").unlink()
    for file in Path("sweep").rglob("status.json"):  # of processes of their own
        file.write_text(json.dumps(json.loads(file.read_text()) | {"host": "then"}, indent=1))


def measure() -> dict:
    """What the tests expect."""
    validated = run("experiments", "validate", *experiment_files()).splitlines()
    found = {
        "revision": REVISION,
        "machine": machine(),
        "weights": {name: weights_sha256(Path("cascade") / FOLDER[name]) for name in CASCADE},
        "losses": {name: losses(Path("cascade") / FOLDER[name]) for name in TRAINED},
        "longer": {},
        "experiments": {line.split()[1]: line.split()[2] for line in validated},
        "runs": json.loads(run("runs", "list", "--root", ".", "--json")),
        "drawn": {name: draw(name) for name in DRAWN},
    }
    for name in LONGER:
        shutil.copytree(Path("cascade") / name, "longer")
        run(*longer(name))
        found["longer"][name] = weights_sha256(Path("longer"))
        shutil.rmtree("longer")
    shutil.rmtree("drawn")
    return found


def hide_this_machine() -> None:
    """Names of this machine are nobody's business, and no file may hold them."""
    for path in Path(".").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            for word in (str(Path.cwd()), str(Path(__file__).parents[2]), tempfile.gettempdir()):
                assert word.encode() not in content, f"{path}: holds {word}"
    for path in [*Path(".").rglob(".lock"), *Path(".").rglob("__pycache__")]:
        path.unlink()


def pack() -> None:
    """All of it, in order and without owners."""

    def plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid = info.gid = info.mtime = 0
        info.uname = info.gname = ""
        return info

    floats = {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 0, "lp": 2}
    with (
        lzma.open(ARCHIVE, "wb", filters=[floats]) as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for path in sorted(Path(".").iterdir()):
            tar.add(path, filter=plain)


def main() -> None:
    """Make, measure and pack."""
    revision = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ARCHIVE.parent, capture_output=True, text=True, check=True
    ).stdout
    assert revision.startswith(REVISION), f"this is for revision {REVISION} alone"
    torch.set_num_threads(1)
    socket.gethostname = lambda: "then"  # of status.json
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as cache, tempfile.TemporaryDirectory() as folder:
        os.environ["UNCLIP_CACHE"] = cache
        os.chdir(folder)
        make_experiments()
        make_runs()
        make_more()
        expected = measure()
        hide_this_machine()
        pack()
        os.chdir(ARCHIVE.parent)
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        expected["tiny"] = twenty_five_steps(Path(folder))
    EXPECTED.write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
