"""What unclip finds on this machine, what is wrong with it, and the fix. Imports no torch.

Nothing here is secret: of accounts it says whether there is a key, and paths start with ``~``.
"""

from __future__ import annotations

import json
import netrc
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from packaging.requirements import Requirement

import unclip
from unclip.config.files import missing_roots, shipped_experiments
from unclip.data.files import cache_folder
from unclip.tracking.index import size_of

GIB = 2**30
LEAST_FREE = 2 * GIB  # a cascade and its checkpoints do not fit into less
PATIENCE = 180  # seconds for torch to be imported, from a cold disk too
SLOW = f"importing it takes more than {PATIENCE} s"
FOR_DEVELOPERS = ("dev", "docs", "test")  # extras


class Problem(NamedTuple):
    """What is broken, and what repairs it."""

    what: str
    fix: str


class Section(NamedTuple):
    """What was found of one subject."""

    values: dict[str, Any]
    problems: list[Problem]


def examine() -> dict[str, Any]:
    """Every section's values by name, and ``problems``: a list of ``what`` and ``fix``."""
    report: dict[str, Any] = {}
    problems: list[Problem] = []
    for name, section in SECTIONS.items():
        try:
            values, own = section()
        except Exception as error:  # the other sections are wanted all the more
            line = (str(error).splitlines() or [""])[0]
            values = {}
            own = [Problem(f"{name}: {type(error).__name__}: {line}", "report it as a bug")]
        report[name] = values
        problems += own
    report["problems"] = [problem._asdict() for problem in problems]
    return report


def _versions() -> Section:
    values: dict[str, Any] = {
        "unclip": unclip.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "installed at": _tilde(Path(unclip.__file__).parent),
    }
    problems = []
    for requirement in _requirements(None):
        name, version = requirement.name, _version(requirement.name)
        values[name] = version
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            has = "is not installed" if version is None else f"{version} is installed"
            wants = f"{name}{requirement.specifier}"
            problems.append(
                Problem(f"{name}: {has}, unclip needs {wants}", f"pip install '{wants}'")
            )
    return Section(values, problems)


def _devices() -> Section:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = psutil.virtual_memory()
    values: dict[str, Any] = {
        "cores": cores,
        "memory": f"{memory.total / GIB:.1f} GiB, {memory.available / GIB:.1f} GiB free",
    }
    driver = _driver()
    if driver:
        values["NVIDIA driver"] = driver
    found, why = _asked()
    if found is None:
        fix = "pip install --force-reinstall torch torchvision (of one release)"
        if why == SLOW:
            fix = "let other programs finish, then run `unclip doctor` again"
        return Section(values, [Problem(f"torch cannot be used: {why}", fix)])
    values["threads"] = found["threads"]
    values["CUDA of torch"] = found["cuda"] or "none: this torch computes on CPUs"
    problems = []
    for k, gpu in enumerate(found["gpus"]):
        narrow = "" if gpu["bfloat16"] else ", no bfloat16"
        values[f"cuda:{k}"] = (
            f"{gpu['name']}, {gpu['memory_gib']} GiB, capability {gpu['capability']}{narrow}"
        )
        if not gpu["computes"]:
            why = gpu.get("error", "wrong result")
            problems.append(
                Problem(
                    f"cuda:{k} ({gpu['name']}) does not compute: {why}",
                    "install a torch for its capability and driver: "
                    "https://pytorch.org/get-started/locally; or use --device cpu",
                )
            )
    if found["mps"]:
        values["mps"] = "available"
    if driver and not found["gpus"]:
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        if hidden is None:
            problems.append(
                Problem(
                    "there is an NVIDIA GPU, and torch does not find it",
                    "install a torch with CUDA for this driver: "
                    "https://pytorch.org/get-started/locally",
                )
            )
        else:
            values["hidden"] = f"CUDA_VISIBLE_DEVICES={hidden}"
    return Section(values, problems)


def _folders() -> Section:
    problems = []
    cache = cache_folder(".")
    values: dict[str, Any] = {}
    places = {"cache": cache, "current folder": Path(), "temporary": Path(tempfile.gettempdir())}
    fixes = {
        "cache": "set UNCLIP_CACHE to a folder on another disk",
        "current folder": "work in another folder",
        "temporary": "set TMPDIR to a folder on another disk",
    }
    for name, folder in places.items():
        there = folder
        while not there.exists() and there != there.parent:
            there = there.parent
        free = shutil.disk_usage(there).free
        values[name] = f"{_tilde(folder.absolute())}, {free / GIB:.1f} GiB free"
        if not there.is_dir() or not _writable(there):
            problems.append(Problem(f"{name}: {_tilde(there)} cannot be written to", fixes[name]))
        elif free < LEAST_FREE:
            problems.append(
                Problem(f"{name}: only {free / GIB:.1f} GiB free", f"free some, or {fixes[name]}")
            )
    if cache.is_dir():
        values["cache holds"] = f"{size_of(cache) / GIB:.1f} GiB"
    experiments = shipped_experiments()
    values["experiments"] = f"{len([*experiments.glob('*/*.yaml')])} come with unclip"
    if not (experiments / "clip" / "tiny.yaml").is_file():
        problems.append(
            Problem("the experiments of unclip are missing", "pip install --force-reinstall unclip")
        )
    for root in missing_roots():
        problems.append(
            Problem(f"UNCLIP_EXPERIMENTS: {_tilde(root)} is not a folder", "make it, or unset it")
        )
    return Section(values, problems)


def _accounts() -> Section:
    import huggingface_hub

    token = huggingface_hub.get_token() is not None
    values = {
        "Weights & Biases": "there is a key" if _wandb_key() else "no key (`wandb login`)",
        "Hugging Face": "there is a token" if token else "no token (`hf auth login`)",
    }
    if mode := os.environ.get("WANDB_MODE"):
        values["WANDB_MODE"] = mode
    return Section(values, [])


def _extras() -> Section:
    values = {}
    for extra in _extra_names():
        lacking = [r.name for r in _requirements(extra) if _version(r.name) is None]
        values[extra] = (
            f"missing {', '.join(lacking)}: pip install 'unclip[{extra}]'"
            if lacking
            else "installed"
        )
    return Section(values, [])


SECTIONS: dict[str, Callable[[], Section]] = {
    "versions": _versions,
    "devices": _devices,
    "folders": _folders,
    "accounts": _accounts,
    "extras": _extras,
}


def _extra_names() -> list[str]:
    names = metadata.metadata("unclip").get_all("Provides-Extra") or []
    return sorted(set(names) - set(FOR_DEVELOPERS))


def _requirements(extra: str | None) -> Iterator[Requirement]:
    """What unclip needs always (None), or an extra of it needs besides."""
    for line in metadata.requires("unclip") or []:
        requirement = Requirement(line)
        marker = requirement.marker
        always = marker is None or marker.evaluate({"extra": ""})
        of_extra = marker is not None and marker.evaluate({"extra": extra or ""})
        if always if extra is None else of_extra and not always:
            yield requirement


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _asked() -> tuple[dict[str, Any] | None, str]:
    """What `unclip.machine.devices` says, or why it says nothing."""
    words = [sys.executable, "-W", "ignore", "-m", "unclip.machine.devices"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return None, SLOW
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1]), ""
    lines = done.stderr.strip().splitlines()
    return None, lines[-1] if lines else f"its process ended with status {done.returncode}"


def _driver() -> str | None:
    """The version of NVIDIA's driver, where there is a GPU of theirs."""
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    first = done.stdout.strip().splitlines()[:1]
    return first[0] if done.returncode == 0 and first else None


def _wandb_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    address = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    host = re.sub(r"^\w+://", "", address).split("/")[0].split(":")[0]
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _writable(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _tilde(path: Path) -> str:
    """``path`` without the user's name, so that a report can be shown to anybody."""
    try:
        return f"~/{path.relative_to(Path.home())}"
    except (ValueError, RuntimeError):
        return str(path)
