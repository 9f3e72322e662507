"""What is said where a device's memory does not suffice: what would."""

from __future__ import annotations

import argparse
import re

_SAID = re.compile(r"Tried to allocate ([\d.]+ \w+).*?total capacity of ([\d.]+ \w+)", re.DOTALL)
_LESS = {"none": "stages", "stages": "blocks"}  # what offload to try next


def is_full(error: BaseException) -> bool:
    """Whether a device ran out of memory; asks without importing torch."""
    return any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)


def line(error: BaseException, args: argparse.Namespace | None) -> str:
    """One line: how much was wanted, and what the command ``args`` could be told instead."""
    found = _SAID.search(str(error))
    wanted = f" ({found[1]} more of {found[2]} wanted)" if found else ""
    steps = _smaller(args)
    return f"the GPU's memory does not suffice{wanted}: {'; or '.join(steps)}"


def _smaller(args: argparse.Namespace | None) -> list[str]:
    offload = getattr(args, "offload", None)
    if offload is None:  # trains, embeds or evaluates, with words of its own
        return ["use a smaller batch (`unclip plan` says what fits)"]
    steps = [f"add --offload {_LESS[offload]}"] if offload in _LESS else []
    if getattr(args, "precision", None) in ("32", "tf32"):
        steps.append("leave out --precision, for half of it")
    batch = getattr(args, "batch", 1)
    if batch > 1:
        steps.append(f"--batch {batch // 2}")
    pipeline = getattr(args, "pipeline", None) or "CASCADE"
    asked = f"ask `unclip plan sample {pipeline} --memory SIZE` what fits"
    return [*steps, asked]
