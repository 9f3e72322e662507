"""What a budget buys: shares of the training steps and of the captions, and how many seeds."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from unclip.evaluation.statistics import power
from unclip.evaluation.statistics.means import t_quantile
from unclip.reproduction.preset import FEWEST, Claim, Preset
from unclip.reproduction.values import VALUES

STARTING = 15.0
"""Seconds that a training takes to start and to end, whatever its steps."""

OPENING = 3.0
"""Seconds that an arm takes to be opened."""

JUDGING = 0.3
"""Share of the time that is for judging, where there is too little for everything."""

SHORTEST = 0.4
"""Share of the steps below which fewer runs are trained."""

RUNS = 3
"""Runs of an arm that tell something of a method: of two, t has one degree of freedom."""

DISCORDANT = 0.2
"""Share of pairs in which exactly one arm is right, as assumed before they are drawn."""

ALIKE = 0.5
"""Correlation of two arms over captions, as assumed before they are drawn."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much of everything is done."""

    share: float  # of the steps that the preset names
    captions: float  # share of the captions that the claims name
    seeds: int  # trained runs of the arms of claims about methods
    hours: float  # that this is expected to take

    def n(self, claim: Claim) -> int:
        """Captions of each arm of a claim."""
        return min(claim.n, max(FEWEST, round(self.captions * claim.n)))

    def seeds_of(self, claim: Claim) -> int:
        """Runs of each arm of a claim."""
        return self.seeds if claim.about == "method" else 1


def runs_needed(preset: Preset, claims: Mapping[str, Claim], seeds: int) -> list[tuple[str, int]]:
    """(training, seed) of all that the claims' arms depend on, parents first.

    What the claim with the least to train depends on comes first, so that it is judged first.
    """

    def needed(claim: Claim) -> dict[tuple[str, int], None]:
        found: dict[tuple[str, int], None] = {}

        def add(name: str, seed: int) -> None:
            if name not in preset.trainings:  # the claim says so when it is its turn
                return
            for parent in preset.trainings[name].parents.values():
                add(parent, seed)
            found[name, seed] = None

        for seed in range(seeds if claim.about == "method" else 1):
            for arm in claim.arms.values():
                for part in arm.parts:
                    add(part, seed)
        return found

    def minutes(runs: Iterable[tuple[str, int]]) -> float:
        return sum(preset.trainings[name].minutes for name, _ in runs)

    ordered = sorted(map(needed, claims.values()), key=minutes)
    return list({run: None for runs in ordered for run in runs})


def choose_sizes(
    preset: Preset,
    claims: Mapping[str, Claim],
    hours: float | None,
    *,
    train: bool = True,
) -> Sizes:
    """The largest sizes that take at most ``hours``; everything if None.

    Judging has `JUDGING` of the time, training the rest. Several runs of `SHORTEST` of the steps
    say more about a method than one whole run; with less, seeds go, down to `RUNS` and then to one.
    Without ``train`` all is trained, once.
    """
    cores = max(1, min(preset.at_once, os.cpu_count() or 1))

    def training(seeds: int, share: float) -> float:
        runs = runs_needed(preset, claims, seeds) if train else []
        each = (60 * preset.trainings[name].minutes * share + STARTING for name, _ in runs)
        return sum(each) / cores / 3600

    def judging(seeds: int, captions: float) -> float:
        sizes = Sizes(share=1.0, captions=captions, seeds=seeds, hours=0.0)
        each = (
            sizes.seeds_of(c) * len(c.arms) * (OPENING + _seconds(preset, c) * sizes.n(c))
            for c in claims.values()
        )
        return sum(each) / cores / 3600

    most = preset.seeds if train else 1
    for seeds in (each for each in range(most, 0, -1) if each in (most, 1) or each >= RUNS):
        whole = training(seeds, 1.0) + judging(seeds, 1.0)
        if hours is None or whole <= hours:
            return Sizes(share=1.0, captions=1.0, seeds=seeds, hours=whole)
        captions = _largest(partial(judging, seeds), hours * (JUDGING if train else 1))
        left = hours - judging(seeds, captions)
        share = _largest(partial(training, seeds), left) if train else 1.0
        if share >= SHORTEST or seeds == 1:
            took = training(seeds, share) + judging(seeds, captions)
            return Sizes(share=share, captions=captions, seeds=seeds, hours=took)
    raise AssertionError("the preset has a seed")


def _largest(cost: Callable[[float], float], hours: float) -> float:
    """The largest share of a cost that rises with it, in thousandths, at least five of them."""
    shares = range(5, 1001)
    affordable = bisect_right(shares, hours, key=lambda x: cost(x / 1000))
    return shares[max(0, affordable - 1)] / 1000


def _seconds(preset: Preset, claim: Claim) -> float:
    """What one caption of an arm takes to be judged."""
    return preset.seconds.get(claim.judge, 0.0) * int(claim.options.get("images", 1))


def told_apart(claim: Claim, sizes: Sizes) -> str:
    """What a claim's test will tell with 80 % power, in words, before anything is run."""
    seeds, n = sizes.seeds_of(claim), sizes.n(claim)
    if claim.about == "method":
        if seeds == 1:
            return "nothing of the method: one run an arm"
        reach = t_quantile(0.95, seeds - 1) / seeds**0.5
        return f"± {reach:.1f} times the spread between paired runs"
    if VALUES[claim.value].share and claim.statistic == "difference":
        least = power.resolves(lambda d: power.n_for_pairs(max(DISCORDANT, d), d), n, largest=1.0)
        return "nothing" if least is None else f"{100 * least:.0f} points"
    least = power.resolves(lambda e: power.n_for_paired_means(e, ALIKE), n, largest=5.0)
    return "nothing" if least is None else f"{least:.2f} standard deviations"
