"""How the old files are measured, then and now: by the command line and by what it writes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

HERE = Path(__file__).parent
ARCHIVE = HERE / "old_files.tar.xz"
EXPECTED = HERE / "expected.json"

CASCADE = {
    "clip": [],
    "pca": ["clip=cascade/clip"],
    "prior": ["clip=cascade/clip"],
    "ar_prior": ["clip=cascade/clip", "pca=cascade/pca"],
    "decoder": ["clip=cascade/clip"],
    "upsampler": [],
}
"""The experiments in `experiments/`, and what each leans on."""
TRAINED = tuple(name for name in CASCADE if name != "pca")
FOLDER = {name: name for name in CASCADE} | {"upsampler": "upsampler_32"}
"""Their folders in `cascade/`, named as a recipe names them."""

LONGER = {"clip": 10, "prior": 62}
"""Those of the cascade whose last checkpoint was kept, and to which step they go on."""

CAPTIONS = ("a red circle", "a small blue star on the left")
DRAWN = {
    "sample": ["sample", *CAPTIONS, "--seed", "3"],  # by the prior's analytic sampler
    "sample_ddim": ["sample", *CAPTIONS, "prior.sampler=ddim", "prior.steps=3"],
    "sample_heun": ["sample", *CAPTIONS, "decoder.sampler=heun", "decoder.guidance=3"],
    "sample_ar": ["sample", *CAPTIONS, "--n", "3", "--prior", "cascade/ar_prior"],
    "vary": ["vary", "picture.png", "--n", "2", "--eta", "0.5", "--seed", "1"],
    "interpolate": ["interpolate", "picture.png", "picture_2.png"],
}
"""What is drawn from `cascade/`."""

STEPS = 25
COMMON = [
    "data.batch_size=8",
    "data.val_samples=2",
    "data.scenes.count=256",
    "optim.warmup_steps=0",
    "trainer.precision=32",
    "trainer.accelerator=cpu",
    "trainer.deterministic=strict",
    "trainer.threads=1",
    f"trainer.max_steps={STEPS}",
    "trainer.log_every=1",
    "trainer.val_every=0",
    "trainer.sample_every=0",
]
PCA = ["pca.samples=256", "data.scenes.count=256", "trainer.accelerator=cpu", "trainer.threads=1"]
PCA += ["pca.buckets=8", "pca.edges=uniform"]
TINY = {
    "clip/tiny": [],
    "prior/diffusion_tiny": ["sampler.steps=2"],
    "prior/ar_tiny": [],
    "decoder/tiny": ["sampler.steps=2"],
    "upsampler/tiny": ["sampler.steps=2"],
}
"""The tiny stages, and their overrides besides `COMMON`."""


def machine() -> dict[str, str]:
    """The kind of machine: where it is the same, bits are."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else "unknown",
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
    }


def unclip(*words: str | Path) -> int:
    """Run a command in this process."""
    from unclip.cli import main

    return main([str(word) for word in words])


def longer(name: str) -> list[str]:
    """The command by which a finished run in the folder `longer` goes on for two steps."""
    given = ["run.dir=longer", f"trainer.max_steps={LONGER[name]}"]
    return ["train", f"experiments/{name}.yaml", *given, "--resume"]


def file_sha256(path: Path) -> str:
    """Of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def weights_sha256(run: Path) -> str:
    """Of the weights that a run has exported."""
    return file_sha256(run / "artifact" / "weights.safetensors")


def pixels_sha256(folder: Path) -> dict[str, str]:
    """Of the pixels of each picture in ``folder``; labelled sheets, which depend on fonts, not."""
    found = {}
    for path in sorted(folder.glob("*.png")):
        if path.stem not in ("grid", "vary", "interpolate"):
            picture = np.asarray(Image.open(path).convert("RGB"))
            content = str(picture.shape).encode() + picture.tobytes()
            found[path.name] = hashlib.sha256(content).hexdigest()
    return found


def draw(name: str) -> dict[str, str]:
    """One of `DRAWN`, from the cascade in the working folder."""
    out = Path("drawn") / name
    assert unclip(*DRAWN[name], "--pipeline", "cascade", "--device", "cpu", "--out", out) == 0
    return pixels_sha256(out)


def losses(run: Path, name: str = "train/loss") -> list[str]:
    """A metric of a run at each step that has it, as hexadecimal floats."""
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [float(row[name]).hex() for row in rows if name in row]


def twenty_five_steps(root: Path, names: Sequence[str] = tuple(TINY)) -> dict[str, dict]:
    """Losses and final weights of the tiny stages, the later ones on the CLIP of the first."""
    found = {}
    for name in names:
        given = [*COMMON, *TINY[name], f"run.dir={root / name}"]
        if name.startswith(("prior/", "decoder/")):
            given.append(f"clip={root / 'clip/tiny'}")
        if name == "prior/ar_tiny":
            own = [f"run.dir={root / 'pca'}", f"clip={root / 'clip/tiny'}"]
            assert unclip("fit-pca", "pca/tiny", *PCA, *own) == 0
            found["pca/tiny"] = {"weights": weights_sha256(root / "pca")}
            given.append(f"pca={root / 'pca'}")
        assert unclip("train", name, *given) == 0
        run = root / name
        found[name] = {"losses": losses(run), "weights": weights_sha256(run)}
    return found
