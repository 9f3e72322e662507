"""How a run came to be: code, packages, machine, command."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import unclip

PACKAGES = ("unclip", "torch", "torchvision", "lightning", "open_clip_torch", "omegaconf", "numpy")


def _git(*words: str) -> str | None:
    """Output of a git command in the folder of this package; None outside a checkout."""
    try:
        result = subprocess.run(
            ["git", *words],
            cwd=Path(unclip.__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


def collect(*, seed: int, data_fingerprint: str, parents: dict[str, str]) -> dict[str, Any]:
    """Plain values for provenance.json; ``parents`` maps a config key to a fingerprint."""
    changed = _git("status", "--porcelain", "--untracked-files=no")
    cuda = torch.cuda.is_available()
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["unclip", *sys.argv[1:]]),
        "git_revision": _git("rev-parse", "HEAD"),
        "git_dirty": None if changed is None else bool(changed),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "machine": torch.cuda.get_device_name() if cuda else platform.processor() or "cpu",
        "platform": platform.platform(),
        "seed": seed,
        "data_fingerprint": data_fingerprint,
        "parents": parents,
    }
