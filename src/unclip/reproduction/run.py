"""Does it all: plans, trains, judges, compares, and writes the page after each step.

Trainings and judgements are commands that run side by side, a claim's judgement as soon as its arms
are trained. Nothing is kept in memory: what is finished lies in ``OUT/runs`` (ordinary runs) and in
``OUT/evaluations`` (`unclip.reproduction.evaluations`), and the same command continues.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from unclip.common import artifacts
from unclip.common.atomic import atomic_write
from unclip.common.counted import about, counted
from unclip.common.errors import UserError
from unclip.common.terminal import say
from unclip.reproduction.arms import (
    Key,
    Run,
    check_overrides,
    commands_of,
    experiment_of,
    is_finished,
    plan_runs,
)
from unclip.reproduction.asked import check_arms
from unclip.reproduction.evaluations import (
    Evaluation,
    Kept,
    evaluations_of,
    is_kept,
    is_trained,
    measured,
)
from unclip.reproduction.held_out import of_what_is_held_out
from unclip.reproduction.page import Page, write_page
from unclip.reproduction.preset import JUDGING, Claim, Preset
from unclip.reproduction.results import NOT_YET, Result, as_json, judged, result_of
from unclip.reproduction.sizes import Sizes, choose_sizes, runs_needed, told_apart
from unclip.runs.side_by_side import run_together
from unclip.stages import registry

KeptArms = dict[str, list[Kept]]
"""What was noted of each arm, a list of its runs."""

RUNS, EVALUATIONS, RESULTS = "runs", "evaluations", "results.json"


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """What is to be done, decided before anything is."""

    preset: Preset
    claims: dict[str, Claim]
    sizes: Sizes
    runs: dict[Key, Run]
    out: Path
    device: str
    words: list[str]  # the command, without the program's name


def plan(
    preset: Preset,
    claims: dict[str, Claim],
    *,
    hours: float | None,
    out: Path,
    device: str,
    words: list[str],
    cascade: Path | None = None,
    overrides: Sequence[str] = (),
) -> Reproduction:
    """Choose the sizes and validate every experiment.

    With ``cascade``, a folder of trained stages, nothing is trained: claims whose arms need more
    than its stages are not tested.

    Raises:
        UserError: an experiment says what cannot be, or the data or the feature network of a judge
            are not there.
    """
    given = {} if cascade is None else _stages_of(cascade, preset)
    there = preset.trainings if cascade is None else given
    if cascade is not None and overrides:
        raise UserError(f"{overrides[0]}: has no effect with --cascade, which trains nothing")
    check_overrides(preset, overrides)
    possible = {key: claim for key, claim in claims.items() if claim.parts <= set(there)}
    if cascade is not None and not possible:
        raise UserError(f"--cascade {cascade}: no claim can be tested with its stages")
    for key, claim in possible.items():
        if claim.judge not in preset.seconds:
            raise UserError(f"the preset's seconds: has no {claim.judge}, which judges {key}")

    @cache
    def experiment(part: str) -> Any:
        if part in given:
            artifact = artifacts.describe(given[part])
            return artifact.stored(registry.STAGES[artifact.stage].experiment)
        return experiment_of(preset, preset.trainings[part], overrides)

    check_arms(possible, preset, experiment)
    possible = of_what_is_held_out(possible, preset, experiment)
    claims = claims | possible
    sizes = choose_sizes(preset, possible, hours, train=cascade is None)
    keys = [] if cascade else runs_needed(preset, claims, sizes.seeds)
    runs = plan_runs(preset, keys, sizes, out / RUNS, given=given, overrides=overrides)
    return Reproduction(
        preset=preset,
        claims=claims,
        sizes=sizes,
        runs=runs,
        out=out,
        device=device,
        words=words,
    )


def _stages_of(cascade: Path, preset: Preset) -> dict[str, Path]:
    """Trainings that folders of a cascade stand for: those that are called as they are."""
    found = {name: cascade / name for name in preset.trainings if (cascade / name).is_dir()}
    upsamplers = sorted(path for path in cascade.glob("upsampler_*") if path.is_dir())
    if "upsampler" not in found and upsamplers:
        found["upsampler"] = upsamplers[0]
    return found


def plan_lines(work: Reproduction) -> list[list[str]]:
    """What will be done and what it will tell, titles first."""
    lines = [["claim", "arms", "runs each", "captions each", "will tell (80 % power)"]]
    for key, claim in work.claims.items():
        n, seeds = work.sizes.n(claim), work.sizes.seeds_of(claim)
        todo = _evaluations(work, key)
        told = todo if isinstance(todo, str) else told_apart(claim, work.sizes)
        lines.append([key, str(len(claim.arms)), str(seeds), str(n), told])
    return lines


def say_plan(work: Reproduction) -> None:
    """How much is done, before it begins."""
    new = [run for run in work.runs.values() if run.task is not None]
    say(
        f"{counted(len(work.claims), 'claim')}, {counted(len(new), 'training')} of "
        f"{100 * work.sizes.share:.3g} % of their steps, {100 * work.sizes.captions:.3g} % of the "
        f"captions, about {about(3600 * work.sizes.hours)}: {work.preset.about}"
    )


def reproduce(work: Reproduction) -> None:
    """Train, judge, compare: each claim as soon as its arms are trained.

    The page is written after each step.
    """
    results = {key: _not_yet(work, key) for key in work.claims}
    kept: dict[str, KeptArms] = {}

    def take(key: str) -> None:
        kept[key] = _judged(work, _evaluations(work, key))
        results[key] = result_of(key, work.claims[key], kept[key])
        say(f"{key}: judged ({len(kept)} of {len(work.claims)})")

    judging, needs = _judging(work)
    for key in [key for key in judging if not judging[key]]:
        take(key)
        del judging[key]
    commands = {_name(key): words for key, words in judging.items()} | commands_of(work.runs)
    of_name = {_name(key): key for key in judging}

    def ended(name: str) -> None:
        if name in of_name:
            take(of_name[name])
        write(work, _state(work, kept), results, kept)

    write(work, _state(work, kept), results, kept)
    run_together(commands, at_once=work.preset.at_once, needs=needs, ended=ended)
    write(work, "", results, kept)


def judge(work: Reproduction, key: str) -> str:
    """Judge the arms of a claim, which are trained: where that is kept, or why it cannot be."""
    todo = _evaluations(work, key)
    if isinstance(todo, str):
        return f"not tested: {todo}"
    if not all(map(is_trained, todo)):
        raise UserError(f"--judge {key}: its arms are not trained; run the command without --judge")
    refused = [one.reason for some in _judged(work, todo).values() for one in some if one.reason]
    return f"not tested: {refused[0]}" if refused else f"kept in {work.out / EVALUATIONS}"


def _judging(work: Reproduction) -> tuple[dict[str, list[str]], dict[str, Sequence[str]]]:
    """What judges each claim that can be judged, nothing if it is; and what each command needs."""
    commands: dict[str, list[str]] = {}
    tasks = [run.task for run in work.runs.values() if run.task is not None]
    needs: dict[str, Sequence[str]] = {task.part: task.needs for task in tasks}
    for key in work.claims:
        todo = _evaluations(work, key)
        if isinstance(todo, str):
            continue
        done = all(is_kept(each, work.out / EVALUATIONS) for each in todo)
        words = [sys.executable, "-m", "unclip", *work.words, "--judge", key]
        commands[key] = [] if done else words
        runs = [run for each in todo for run in each.runs.values()]
        needs[_name(key)] = sorted({run.task.part for run in runs if run.task is not None})
    return commands, needs


def _name(key: str) -> str:
    return f"{JUDGING}{key}"


def _state(work: Reproduction, kept: Mapping[str, KeptArms]) -> str:
    left = sum(not is_finished(run) for run in work.runs.values())
    return f"{counted(left, 'run')} to train, {len(kept)} of {len(work.claims)} claims judged"


def _not_yet(work: Reproduction, key: str) -> Result:
    todo = _evaluations(work, key)
    return Result(key, notes=(f"not tested: {todo}" if isinstance(todo, str) else NOT_YET,))


def _judged(work: Reproduction, todo: Sequence[Evaluation] | str) -> KeptArms:
    """What is kept of each arm; nothing more once a judge has refused one."""
    assert not isinstance(todo, str)
    found: KeptArms = {each.arm: [] for each in todo}
    for each in todo:
        found[each.arm].append(measured(each, work.out / EVALUATIONS, work.device))
        if found[each.arm][-1].reason:
            break
    return found


def _evaluations(work: Reproduction, key: str) -> list[Evaluation] | str:
    claim = work.claims[key]
    n, seeds = work.sizes.n(claim), work.sizes.seeds_of(claim)
    return evaluations_of(key, claim, work.preset, work.runs, n=n, seeds=seeds)


def write(
    work: Reproduction, state: str, results: Mapping[str, Result], kept: Mapping[str, KeptArms]
) -> None:
    """Write ``results.json``, ``index.html`` and ``reproduction.md`` of what is known so far."""
    final = judged(list(results.values()), work.claims)
    with atomic_write(work.out / RESULTS) as scratch:
        scratch.write_text(json.dumps(as_json(final), indent=2) + "\n", encoding="utf-8")
    command = f"unclip {shlex.join(work.words)}"
    page = Page(command, state, work.preset, work.claims, work.sizes, work.runs, final, kept)
    write_page(page, work.out)
