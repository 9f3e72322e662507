"""How a run came to be: code, packages, machine, command."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch

import unclip
from unclip.common.atomic import atomic_write
from unclip.tracking.files import PROVENANCE, read_json

DIFF = "code.diff"
PACKAGES = (
    "unclip",
    "torch",
    "torchvision",
    "lightning",
    "open_clip_torch",
    "safetensors",
    "numpy",
    "pillow",
    "pyarrow",
    "wandb",
    "xformers",
)
MOST_DIFF = 2**20  # bytes of a diff that are kept


def collect(
    *,
    experiment: str,
    seed: int,
    processes: int,
    data_fingerprint: str,
    parents: dict[str, str],
) -> dict[str, Any]:
    """Plain values for provenance.json.

    ``experiment`` is its name, ``processes`` train together, ``parents`` maps a config key (clip,
    pca) to a fingerprint.
    """
    revision = _revision()
    cuda = torch.cuda.is_available()
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "experiment": experiment,
        "command": command(),
        "git_revision": revision,
        "git_dirty": None if revision is None else bool(_changes()),
        "packages": _packages(),
        "python": platform.python_version(),
        "machine": torch.cuda.get_device_name() if cuda else _cpu(),
        "platform": platform.platform(),
        "hardware": _hardware(),
        "torch_threads": torch.get_num_threads(),
        "processes": processes,
        "seed": seed,
        "data_fingerprint": data_fingerprint,
        "parents": parents,
    }


def begin(folder: Path, provenance: dict[str, Any]) -> None:
    """Write a starting run's ``provenance.json`` and, of changed code, ``code.diff``."""
    _keep_diff(folder, provenance)
    _write(folder, provenance)


def resume(
    folder: Path, provenance: dict[str, Any], noted: dict[str, Any], anew: dict[str, Any]
) -> None:
    """Add to the run's list ``resumed`` when and how it goes on, and what differs from its start.

    ``noted`` goes there too: ``step``, and ``changed`` settings, key -> [then, now]. ``anew`` takes
    the place of what the run's provenance had.

    Code that differs from all that was kept before gets a ``code.1.diff``, and so on.
    """
    start = read_json(folder / PROVENANCE)
    if not start:  # of a run that an older version started
        begin(folder, provenance | anew)
        return
    _keep_diff(folder, provenance)
    always = ("created", "command")
    entry = {k: v for k, v in provenance.items() if k in always or v != start.get(k)}
    start["resumed"] = [*start.get("resumed", []), entry | {k: v for k, v in noted.items() if v}]
    _write(folder, start | anew)


def command() -> str:
    """The command line of this process, as a shell takes it; of the program only its name."""
    program = Path(sys.argv[0]).name
    return shlex.join(["unclip" if program == "__main__.py" else program, *sys.argv[1:]])


def _write(folder: Path, provenance: dict[str, Any]) -> None:
    with atomic_write(folder / PROVENANCE) as scratch:
        scratch.write_text(json.dumps(provenance, indent=2) + "\n", encoding="utf-8")


def _keep_diff(folder: Path, provenance: dict[str, Any]) -> None:
    """Write the code's changes beside it and name the file in ``provenance``, if there are any."""
    changes = _changes() if provenance["git_dirty"] else b""
    if not changes:
        return
    if len(changes) > MOST_DIFF:
        changes = changes[:MOST_DIFF] + f"\n# cut: {len(changes):,} bytes in all\n".encode()
    before = sorted(folder.glob("code*.diff"))
    found = next((p.name for p in before if p.read_bytes() == changes), None)
    if found is None:
        found = f"code.{len(before)}.diff" if before else DIFF
        (folder / found).write_bytes(changes)
    provenance["code_diff"] = found


def _packages() -> dict[str, str]:
    """Versions of those of `PACKAGES` that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _hardware() -> dict[str, Any]:
    """CPU, memory and GPUs; results depend on the kind of both processors."""
    gpus = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
    found: dict[str, Any] = {
        "cpu": _cpu(),
        "cpu_instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": gpus,
    }
    if gpus:
        driver = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
        found["driver"] = driver.decode().split("\n")[0] if driver else None
        found["cuda"] = torch.version.cuda
        found["cudnn"] = torch.backends.cudnn.version()
    return found


def _cpu() -> str:
    """The model's name, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine() or "cpu"


def _revision() -> str | None:
    """Of the checkout that this package is part of; None when it was installed."""
    # An environment may lie in somebody's checkout: does that one know this file?
    if _git("ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    revision = _git("rev-parse", "HEAD")
    return None if revision is None else revision.decode().strip()


def _changes() -> bytes:
    """What tracked files have changed since the revision, as a diff."""
    return _git("diff", "HEAD", "--no-color", "--no-ext-diff") or b""


def _git(*words: str) -> bytes | None:
    """Output of a git command in the folder of this package; None outside a checkout."""
    return _output("git", *words)


def _output(*words: str) -> bytes | None:
    try:
        return subprocess.run(
            words, cwd=Path(unclip.__file__).parent, capture_output=True, timeout=10, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
