"""The checkpoints of a run: their names, which is the newest, and whether one is whole."""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path

FORMAT = 1
MANIFEST, REST = "manifest.json", "rest.pt"
_CHUNK = 1 << 24


def step_name(step: int) -> str:
    """The folder of a step's checkpoint."""
    return f"step_{step:07d}"


def step_of(path: Path) -> int:
    """The step of a checkpoint."""
    return int(path.name.removeprefix("step_"))


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a run's ``folder``, by step."""
    found = (folder / "checkpoints").glob("step_*")
    steps = [p for p in found if re.fullmatch(r"step_\d+", p.name) and (p / MANIFEST).is_file()]
    return sorted(steps, key=step_of)


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the most steps in a run's ``folder``, its contents not yet verified."""
    return max(checkpoints(folder), key=step_of, default=None)


def files_damage(path: Path) -> str | None:
    """What is wrong with the files of a checkpoint, as far as its manifest tells, or None."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        if manifest["format"] != FORMAT:
            return f"format {manifest['format']}, this version reads {FORMAT}"
        files = dict(manifest["files"])
        lacking = {REST, *map(rank_file, range(int(manifest["processes"])))} - files.keys()
        if lacking:
            return f"{MANIFEST} does not list {min(lacking)}"
        for name, wanted in files.items():
            file = path / Path(name).name
            if not file.is_file():
                return f"{name} is missing"
            if size_and_sum(file) != wanted:
                return f"{name} is not what was written"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"{MANIFEST}: {type(error).__name__}: {error}"
    return None


def rank_file(rank: int) -> str:
    """The file of what one process had."""
    return f"rank_{rank:05d}.safetensors"


def size_and_sum(file: Path) -> dict[str, int]:
    """Size and CRC-32 of a file, as the manifest has them."""
    crc = 0
    with file.open("rb") as opened:
        while chunk := opened.read(_CHUNK):
            crc = zlib.crc32(chunk, crc)
    return {"bytes": file.stat().st_size, "crc32": crc}
