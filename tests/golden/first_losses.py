"""The first losses of every tiny experiment: what `losses.json` holds, and how it is made anew.

`python tests/golden/first_losses.py` rewrites losses.json and prints what changed.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import torch

FILE = Path(__file__).parent / "losses.json"
RULE = (
    "First training losses of the tiny experiments, float32, one thread, made by first_losses.py. "
    "A change to them states its reason in the CHANGELOG."
)
STEPS = 5
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
MORE = {
    "clip/tiny": [],
    "prior/diffusion_tiny": ["sampler.steps=2"],
    "prior/ar_tiny": [],
    "prior/laion_tiny": ["sampler.steps=2"],
    "decoder/tiny": ["sampler.steps=2", "data.batch_size=4"],
    "upsampler/tiny": ["sampler.steps=2"],
    "upsampler/256_tiny": ["sampler.steps=2"],
    "upsampler/1024_tiny": ["sampler.steps=2", "data.batch_size=4"],
}


def measure(root: Path) -> dict[str, list[float]]:
    """Train each for `STEPS` steps in ``root``, the priors and the decoder on the CLIP of there."""
    from unclip.config.load import load_experiment, merge_overrides
    from unclip.runs.fit import fit
    from unclip.runs.train import train
    from unclip.tracking.files import curves, read_metrics

    found = {}
    for name, more in MORE.items():
        given = merge_overrides(COMMON, [*more, f"run.dir={root / name}"])
        if name.startswith(("prior/", "decoder/")):
            given.append(f"clip={root / 'clip/tiny'}")
        if name == "prior/ar_tiny":
            pca = [f"run.dir={root / 'pca'}", f"clip={root / 'clip/tiny'}", "trainer.threads=1"]
            pca += ["pca.samples=256", "data.scenes.count=256", "trainer.accelerator=cpu"]
            pca += ["pca.buckets=8", "pca.edges=uniform"]
            fit(load_experiment("pca/tiny", pca))
            given.append(f"pca={root / 'pca'}")
        train(load_experiment(name, given))
        rows = read_metrics(root / name / "metrics.jsonl")
        found[name] = [value for _, value in curves(rows)["train/loss"]]
    return found


def main() -> None:
    """Rewrite `FILE`."""
    before = json.loads(FILE.read_text())["losses"] if FILE.is_file() else {}
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as root:
        losses = measure(Path(root))
    for name, values in losses.items():
        old = before.get(name, [])
        change = max((abs(a / b - 1) for a, b in zip(values, old)), default=float("nan"))
        print(f"{name}: largest relative change {change:.1e}", file=sys.stderr)
    FILE.write_text(json.dumps({"about": RULE, "losses": losses}, indent=1) + "\n")


if __name__ == "__main__":
    main()
