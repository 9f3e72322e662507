"""Judges arms, each once: what a judge notes is kept under a hash of all that it depends on."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unclip.common import json_text
from unclip.common.atomic import atomic_write
from unclip.common.errors import Interrupted, UserError
from unclip.common.images import save
from unclip.reproduction.arms import Run, is_finished
from unclip.reproduction.preset import Claim, Preset

VERSION = 2
"""Raised when a judge notes something else than before: kept records are then made anew."""


@dataclass(frozen=True)
class Evaluation:
    """One arm of a claim, for one seed."""

    claim: str
    arm: str
    seed: int
    judge: str
    options: Mapping[str, Any]
    runs: Mapping[str, Run]  # by kind
    n: int

    def key(self) -> str:
        """Hash of all that the records depend on."""
        weights = {kind: run.artifact.sha256 for kind, run in self.runs.items()}
        what = [VERSION, self.judge, dict(self.options), weights, self.n, self.seed]
        text = json.dumps(what, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Kept:
    """What was noted, or why nothing could be."""

    records: list[dict[str, Any]]
    sheet: Path | None
    seconds: float
    cpu_seconds: float
    reason: str = ""


def evaluations_of(
    key: str,
    claim: Claim,
    preset: Preset,
    runs: Mapping[tuple[str, int], Run],
    *,
    n: int,
    seeds: int,
) -> list[Evaluation] | str:
    """Every arm and seed of a claim; or why it cannot be judged: what is missing."""
    found = []
    for name, arm in claim.arms.items():
        for seed in range(seeds):
            missing = [part for part in arm.parts if (part, seed) not in runs]
            if missing:
                return f"there is no {missing[0]}" + (f" of seed {seed}" if seed else "")
            parts = {preset.trainings[part].kind: runs[part, seed] for part in arm.parts}
            found.append(
                Evaluation(key, name, seed, claim.judge, {**claim.options, **arm.options}, parts, n)
            )
    return found


def is_trained(evaluation: Evaluation) -> bool:
    """Whether all its networks are there."""
    return all(map(is_finished, evaluation.runs.values()))


def is_kept(evaluation: Evaluation, folder: Path) -> bool:
    """Whether it has been judged."""
    return is_trained(evaluation) and read_kept(folder, evaluation.key()) is not None


def measured(evaluation: Evaluation, folder: Path, device: str) -> Kept:
    """The kept records, made first where there are none. A refusal is kept in memory alone."""
    from unclip.reproduction.judges.judge import Inputs
    from unclip.reproduction.judges.registry import JUDGES

    key = evaluation.key()
    if kept := read_kept(folder, key):
        return kept
    parts = {kind: run.folder for kind, run in evaluation.runs.items()}
    inputs = Inputs(parts, evaluation.options, evaluation.n, evaluation.seed, device)
    began, cpu_began = time.perf_counter(), time.process_time()
    try:
        found = JUDGES[evaluation.judge](inputs)
    except Interrupted:
        raise
    except UserError as error:
        return Kept([], None, 0.0, 0.0, str(error))
    if found.sheet is not None:
        save(found.sheet, folder / f"{key}.png")
    content = {
        "judge": evaluation.judge,
        "options": dict(evaluation.options),
        "weights": {kind: run.artifact.sha256 for kind, run in evaluation.runs.items()},
        "n": evaluation.n,
        "seed": evaluation.seed,
        "seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(time.process_time() - cpu_began, 1),
    }
    with atomic_write(folder / f"{key}.jsonl") as scratch:
        lines = map(json.dumps, [content, *found.records])
        scratch.write_text("\n".join(lines) + "\n", encoding="utf-8")
    kept = read_kept(folder, key)
    assert kept is not None
    return kept


def read_kept(folder: Path, key: str) -> Kept | None:
    """What was kept under ``key``; None where there is nothing, or nothing whole.

    A line for each record, of which there may be more than one text of JSON is allowed to hold.
    """
    sheet = folder / f"{key}.png"
    try:
        with (folder / f"{key}.jsonl").open("rb") as lines:
            content, *records = map(json_text.read, lines)
    except (FileNotFoundError, ValueError):
        return None
    shown = sheet if sheet.is_file() else None
    return Kept(records, shown, content["seconds"], content["cpu_seconds"])
