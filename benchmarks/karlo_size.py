"""Import and sampling of a cascade of Karlo's true size, against what `unclip plan` says of it.

    python benchmarks/karlo_size.py                   # 14 GB of disk, 16 GiB of memory, minutes
    python benchmarks/karlo_size.py --keep runs/size  # leaves the files for a second call
    python benchmarks/karlo_size.py --only prior      # makes and imports one stage: 2 to 3 GiB
    python benchmarks/karlo_size.py --only import --keep runs/size
    python benchmarks/karlo_size.py --only sample --keep runs/size --precision bf16 --most 13

The files have the names, shapes and type (float16) of diffusers' folders and random numbers. Each
command is a process of its own; its memory is the kernel's peak, pages of mapped files included.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

STAGES = {
    "clip": ("text_encoder",),
    "prior": ("prior", "prior_scheduler"),
    "decoder": ("decoder", "text_proj", "decoder_scheduler"),
    "upsampler": ("super_res_first", "super_res_last", "super_res_scheduler"),
}
GOLDENS = Path(__file__).parents[1] / "tests" / "goldens"
FILE = "diffusion_pytorch_model.fp16.safetensors"
GIB = 2**30


def configure(root: Path, *, image: bool = False) -> None:
    """The configuration files of the published folders, without weights."""
    values = json.loads((GOLDENS / "karlo-published.json").read_text())
    values["super_res_last/config.json"] = values["super_res_first/config.json"]
    if not image:
        del values["image_encoder/config.json"]
    tiny = GOLDENS / "karlo-diffusers"
    for file in [*tiny.glob("*.json"), *tiny.glob("*/*.json")]:
        name = file.relative_to(tiny).as_posix()
        values[name] = json.loads(file.read_text()) | values.get(name, {})
    for name, content in values.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(json.dumps(content))


def fill(root: Path) -> None:
    """Weights of random numbers beside the configurations."""
    from unclip.stages import registry
    from unclip.weights.diffusers.find import find
    from unclip.weights.maps.prior import DEVIATIONS
    from unclip.weights.maps.rules import to_theirs
    from unclip.weights.reading.folders import local

    some = 0.02 * torch.randn(1 << 20, generator=torch.Generator().manual_seed(0))
    for found in find(local(root), half=True):
        with torch.device("meta"):
            net = registry.STAGES[found.stage].build_network(found.experiment, found.sizes)
            net = net.model if found.stage == "clip" else net
        named = to_theirs(net.state_dict(), found.rules(net))
        folders: dict[str, dict[str, torch.Tensor]] = {}
        for name, like in named.items():
            first, _, rest = name.partition(".")
            folder = first if (root / first).is_dir() else ""
            folder = folder or {"clip": "text_encoder", "diffusion_prior": "prior"}[found.stage]
            rest = rest if folder == first else name
            half = some.repeat(-(-like.numel() // len(some)))[: like.numel()].half()
            half = half.abs() + 0.5 if rest in DEVIATIONS else half
            folders.setdefault(folder, {})[rest] = half.view(like.shape)
        for folder, state in folders.items():
            if folder == "text_encoder":
                state = {k: v for k, v in state.items() if not k.startswith("vision")}
                state.pop("logit_scale", None)
                state = {k: v for k, v in state.items() if "visual" not in k}
            count = sum(tensor.numel() for tensor in state.values())
            name = "model.fp16.safetensors" if folder == "text_encoder" else FILE
            save_file(state, root / folder / name)
            print(f"{folder:<16}{count:>15,} parameters", flush=True)


def keep_only(root: Path, stage: str) -> None:
    """Leave the folders of one stage alone."""
    (root / "model_index.json").unlink()
    for folder in root.iterdir():
        if folder.name not in STAGES[stage]:
            shutil.rmtree(folder)


def apart(work: Callable[[Path], None], root: Path) -> None:
    """Do it in a process of its own: a child's peak begins with the memory of its parent."""
    process = multiprocessing.get_context("spawn").Process(target=work, args=(root,))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{work.__name__} failed")


def measured(*words: str, most: float | None = None) -> tuple[float, float]:
    """Seconds and peak memory in GiB of an unclip command, which fails if it asks for ``most``."""
    limit = [] if most is None else ["prlimit", f"--data={int(most * GIB)}"]
    began = time.perf_counter()
    process = subprocess.Popen([*limit, sys.executable, "-m", "unclip", *words])
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"unclip {words[0]} failed")
    return time.perf_counter() - began, usage.ru_maxrss * 1024 / GIB


def planned(out: Path, *words: str) -> tuple[float, float]:
    """What `unclip plan` says of an import and of sampling on this CPU, in GiB."""
    run = [sys.executable, "-m", "unclip", "plan", str(out), "--device", "cpu", "--json", *words]
    found = json.loads(subprocess.run(run, check=True, capture_output=True, text=True).stdout)
    return found["import_bytes"] / GIB, found["devices"][0]["peak_bytes"] / GIB


def show(what: str, seconds: float, peak: float, expected: float) -> None:
    """A line."""
    print(
        f"{what}: planned {expected:.2f} GiB, measured {peak:.2f} GiB, "
        f"ratio {expected / peak:.2f}; {seconds:.0f} s",
        flush=True,
    )


def main() -> None:
    """Make, import, plan, sample."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--keep", type=Path, help="folder for the files, which stay there")
    p.add_argument("--precision", nargs="+", default=["32", "bf16"])
    p.add_argument(
        "--only", choices=("import", "sample", *STAGES), help="one part; sample needs --keep"
    )
    p.add_argument("--steps", type=int, default=2, help="of each stage (default 2)")
    p.add_argument("--most", type=float, metavar="GIB", help="sampling that needs more is not run")
    args = p.parse_args()
    if args.only == "sample" and not (args.keep and (args.keep / "cascade").exists()):
        p.error(
            "--only sample: no cascade in --keep; make it by --only import with the same --keep"
        )
    root = args.keep or Path(tempfile.mkdtemp(prefix="karlo-size-"))
    source, out = root / "source", root / "cascade"
    steps = [f"{stage}.steps={args.steps}" for stage in ("prior", "decoder", "upsampler")]
    try:
        if not out.exists():
            source.mkdir(parents=True)
            configure(source)
            if args.only in STAGES:
                keep_only(source, args.only)
            apart(fill, source)
            seconds, peak = measured("import", str(source), "--out", str(out), "--half")
            show("import --half", seconds, peak, planned(out)[0])
            shutil.rmtree(source)
        for precision in args.precision if args.only in (None, "sample") else ():
            how = ["--precision", precision, *steps]
            expected = planned(out, *how)[1]
            drawn = ["sample", "a corgi", "--pipeline", str(out), "--out", str(root / "samples")]
            if args.most is not None and expected > args.most:
                print(f"sample --precision {precision}: planned {expected:.2f} GiB, left out")
                continue
            seconds, peak = measured(*drawn, *how, most=args.most)
            show(f"sample --precision {precision}", seconds, peak, expected)
    finally:
        if args.keep is None:
            shutil.rmtree(root)


if __name__ == "__main__":
    main()
