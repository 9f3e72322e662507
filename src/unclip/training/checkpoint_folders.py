"""The checkpoints of a run: their names, which is the newest, and whether one is whole."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

from unclip.common.errors import UserError

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
    # One that is being written, or was when the process was killed, is called step_0000005.part.
    return sorted(p for p in found if p.suffix == "" and (p / MANIFEST).is_file())


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the most steps in a run's ``folder``, its contents not yet verified."""
    return max(checkpoints(folder), default=None)


def newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint that is what was written; says so when it passes over another.

    Raises:
        UserError: there are checkpoints, but all are damaged.
    """
    damages: list[str] = []
    for path in reversed(checkpoints(folder)):
        damage = damage_of(path)
        if damage is None:
            for line in damages:
                print(f"{line}; continuing from {path.name}", flush=True)
            return path
        damages.append(f"{path}: damaged checkpoint: {damage}")
    if damages:
        raise UserError(f"{damages[0]}; there is no other; start over with --force")
    return None


def damage_of(path: Path) -> str | None:
    """What is wrong with the files of a checkpoint, or None."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        if manifest["format"] != FORMAT:
            return f"format {manifest['format']}, this version reads {FORMAT}"
        for name, wanted in manifest["files"].items():
            file = path / name
            if not file.is_file():
                return f"{name} is missing"
            if size_and_sum(file) != wanted:
                return f"{name} is not what was written"
    except (OSError, ValueError, KeyError) as error:
        return f"{MANIFEST}: {error}"
    return None


def size_and_sum(file: Path) -> dict[str, int]:
    """Size and CRC-32 of a file, as the manifest has them."""
    crc = 0
    with file.open("rb") as opened:
        while chunk := opened.read(_CHUNK):
            crc = zlib.crc32(chunk, crc)
    return {"bytes": file.stat().st_size, "crc32": crc}
