"""From records to an effect with its interval, and from all effects to verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from unclip.common.counted import counted
from unclip.common.images import Array
from unclip.evaluation.statistics.bootstrap import bootstrap
from unclip.evaluation.statistics.estimate import Estimate, Verdict, holm, verdict
from unclip.evaluation.statistics.means import paired_means
from unclip.evaluation.statistics.shares import paired_shares
from unclip.evaluation.statistics.trends import difference_of_slopes, page
from unclip.reproduction.evaluations import Kept
from unclip.reproduction.preset import Claim
from unclip.reproduction.values import VALUES, Value

ONE_RUN = "one run an arm: its interval is over captions and says nothing of the method"
NOT_YET = "not yet judged"
FEW = "{n} captions: a verdict needs {least}"
OTHERS = "its arms were judged on different captions, so they are no pairs"
DRAWS = 10_000
"""Of a bootstrap: its smallest p, 2 / DRAWS, stays small when Holm multiplies it by the claims."""

LEAST = 30
"""Captions below which no verdict is given, whatever the interval: it rests on large samples."""


@dataclass(frozen=True)
class Result:
    """What became of a claim."""

    claim: str
    arms: dict[str, float] = field(default_factory=dict)  # the value of each, mean over its runs
    estimate: Estimate | None = None
    verdict: Verdict | None = None  # None: not tested
    p: float | None = None  # after Holm's correction
    notes: tuple[str, ...] = ()


def result_of(key: str, claim: Claim, kept: Mapping[str, Sequence[Kept]]) -> Result:
    """The effect of a claim; its verdict comes with those of the other claims (`judged`).

    Args:
        key: The claim's id.
        claim: What is compared.
        kept: Of each arm, for each of its runs.
    """
    for each in kept.values():
        for one in each:
            if one.reason:
                return Result(key, notes=(one.reason,))
    for runs in zip(*kept.values()):
        captions, *others = ([record.get("caption") for record in one.records] for one in runs)
        if any(other != captions for other in others):
            return Result(key, notes=(OTHERS,))
    value = VALUES[claim.value]
    rows = {name: [_rows(value, one) for one in each] for name, each in kept.items()}
    arms = {name: float(np.mean([value.reduce(r) for r in each])) for name, each in rows.items()}
    estimate = _estimate(claim, value, list(rows.values()))
    notes = []
    if claim.about == "method" and len(next(iter(rows.values()))) == 1:
        notes.append(ONE_RUN)
    if captions[0] is not None:
        several = counted(len(set(captions)), "different caption")
        notes.append(f"{counted(len(captions), 'held-out image')} of {several}")
    return Result(key, arms, estimate, notes=tuple(notes))


def _rows(value: Value, kept: Kept) -> Array:
    return np.array([value.row(record) for record in kept.records], np.float64)


def _estimate(claim: Claim, value: Value, arms: list[list[Array]]) -> Estimate:
    if claim.statistic == "trend":
        return page(np.concatenate([arm[0] for arm in arms], axis=1), seed=0)
    if claim.statistic == "slopes":
        half = len(claim.x)
        first, second = (
            np.concatenate([arm[0] for arm in some], axis=1) for some in (arms[:half], arms[half:])
        )
        return difference_of_slopes(np.log(claim.x), first, second, seed=0, draws=DRAWS)
    a, b = arms[:2]
    if len(a) > 1:
        first, second = (np.array([value.reduce(rows) for rows in arm]) for arm in (a, b))
        return paired_means(first, second)
    if value.share and set(np.unique(np.concatenate([a[0], b[0]]))) <= {0.0, 1.0}:
        better, worse = (a[0] > b[0]).sum(), (a[0] < b[0]).sum()
        return paired_shares(int(better), int(worse), len(a[0]))
    width = a[0].shape[1]
    both = np.concatenate([a[0], b[0]], axis=1)
    return bootstrap(
        [both],
        lambda r: value.reduce(r[:, :width]) - value.reduce(r[:, width:]),
        seed=0,
        draws=DRAWS,
    )


def judged(results: Sequence[Result], claims: Mapping[str, Claim]) -> list[Result]:
    """All results with their verdicts, p corrected by Holm over those that were tested."""
    tested = {r.claim: r.estimate.p for r in results if r.estimate is not None}
    corrected = holm(tested)
    return [_judged(r, claims[r.claim], corrected) for r in results]


def _judged(result: Result, claim: Claim, corrected: Mapping[str, float]) -> Result:
    found, notes = result.estimate, list(result.notes)
    if found is None:
        return result
    p = corrected[result.claim]
    says: Verdict = verdict(found, claim.expected, p=p, margin=claim.margin)
    runs = found.method == "paired t"
    if not runs and found.n < LEAST:
        notes.append(FEW.format(n=found.n, least=LEAST))
    if ONE_RUN in notes or (not runs and found.n < LEAST):
        says = "not told apart"
    elif says == "not told apart" and found.p < 0.05 <= p:
        notes.append(f"alone it would be told apart (p {found.p:.2g}), not among so many claims")
    return Result(result.claim, result.arms, found, says, p, tuple(notes))


def as_json(results: Sequence[Result]) -> list[dict[str, Any]]:
    """For ``results.json``."""
    return [
        {
            "claim": r.claim,
            "verdict": r.verdict,
            "arms": r.arms,
            "p_corrected": r.p,
            "estimate": None if r.estimate is None else vars(r.estimate),
            "notes": list(r.notes),
        }
        for r in results
    ]
