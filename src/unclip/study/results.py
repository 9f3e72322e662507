"""What raters' votes come to: table 1 of the paper, and how far the votes can be trusted."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from unclip.evaluation.statistics.agreement import Agreement, agreement
from unclip.evaluation.statistics.bootstrap import bootstrap
from unclip.evaluation.statistics.estimate import holm
from unclip.evaluation.statistics.power import n_for_preference, resolves
from unclip.evaluation.statistics.shares import sign_test
from unclip.study.questions import UNSURE
from unclip.study.study import Study
from unclip.study.votes import Vote

LEAST_CAUGHT = 0.8  # share of a rater's catch pairs
FEWEST_CATCHES = 3  # from which a rater is judged
RULE = (
    f"Left out: raters who answered fewer than {100 * LEAST_CAUGHT:.0f} % of their catch pairs as "
    f"expected, of {FEWEST_CATCHES} or more."
)
ALPHA = 0.05


@dataclass(frozen=True, kw_only=True)
class Share:
    """How often A was preferred, with the paper's interval: ± 1.96 √(p (1 - p) / n)."""

    share: float
    margin: float
    n: int


@dataclass(frozen=True, kw_only=True)
class Rater:
    """One rater's care."""

    name: str
    votes: int  # catch pairs among them
    catches: int
    caught: int
    left: float | None  # share of the answers other than "not sure" that were the left side
    seconds: float | None  # median, per vote
    excluded: bool


@dataclass(frozen=True, kw_only=True)
class Result:
    """Of one question."""

    question: str
    votes: int
    captions: int
    a: int
    b: int
    unsure: int
    half: Share  # "not sure" counted as half a vote for each
    decided: Share | None  # "not sure" left out; None where nobody was sure
    low: float | None  # 95 % of `half`, bootstrap over captions; None for one caption
    high: float | None
    sign_p: float  # over captions: each counts once, for what most of its raters chose
    holm_p: float  # the same, corrected for the number of questions
    agreement: Agreement
    resolves: float | None  # difference from a half that so many captions tell, with 80 % power

    @property
    def verdict(self) -> str:
        """``a``, ``b`` or neither; the interval first, then the corrected test."""
        if self.low is None or self.high is None or self.holm_p >= ALPHA:
            return "not told apart"
        if self.low > 0.5:
            return "a"
        return "b" if self.high < 0.5 else "not told apart"


@dataclass(frozen=True, kw_only=True)
class Results:
    """Of a study."""

    title: dict[str, str]  # of the arms
    results: list[Result]
    raters: list[Rater]
    unknown: int  # votes for pairs that the study does not have

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        found = asdict(self)
        for each, result in zip(found["results"], self.results):
            each["agreement"] = result.agreement._asdict()
            each["verdict"] = result.verdict
        return found | {"rule": RULE}


def evaluate_votes(study: Study, votes: Iterable[Vote]) -> Results:
    """What all votes come to, without those of excluded raters."""
    votes = list(votes)
    known = [vote for vote in votes if vote.pair in study.pairs]
    by_rater: dict[str, list[Vote]] = defaultdict(list)
    for vote in known:
        by_rater[vote.rater].append(vote)
    raters = [_rater(study, name, own) for name, own in sorted(by_rater.items())]
    excluded = {rater.name for rater in raters if rater.excluded}
    counted = [v for v in known if v.rater not in excluded and not study.pairs[v.pair].catch]
    found: dict[str, dict[str, list[str]]] = {}  # answers by pair, which is a caption's
    for question in study.questions:
        found[question] = defaultdict(list)
    for vote in counted:
        found[study.pairs[vote.pair].question][vote.pair].append(vote.answer)
    judged = {question: pairs for question, pairs in found.items() if pairs}
    signs = {question: _sign_test(pairs.values()) for question, pairs in judged.items()}
    corrected = holm(signs)
    return Results(
        title={arm: study.title(arm) for arm in ("a", "b")},
        results=[
            _result(question, list(pairs.values()), signs[question], corrected[question], study)
            for question, pairs in judged.items()
        ],
        raters=raters,
        unknown=len(votes) - len(known),
    )


def _rater(study: Study, name: str, votes: list[Vote]) -> Rater:
    catches = [vote for vote in votes if study.pairs[vote.pair].catch]
    caught = sum(vote.answer == "a" for vote in catches)
    sides = [vote.answer == vote.left for vote in votes if vote.answer != UNSURE]
    seconds = [vote.seconds for vote in votes if vote.seconds is not None]
    enough = len(catches) >= FEWEST_CATCHES
    return Rater(
        name=name,
        votes=len(votes),
        catches=len(catches),
        caught=caught,
        left=sum(sides) / len(sides) if sides else None,
        seconds=float(np.median(seconds)) if seconds else None,
        excluded=enough and caught < LEAST_CAUGHT * len(catches),
    )


def _sign_test(captions: Iterable[list[str]]) -> float:
    nets = [answers.count("a") - answers.count("b") for answers in captions]
    return sign_test(sum(net > 0 for net in nets), sum(net != 0 for net in nets))


def _result(
    question: str, captions: list[list[str]], sign_p: float, holm_p: float, study: Study
) -> Result:
    rows = np.array([[own.count(answer) for answer in ("a", "b", UNSURE)] for own in captions])
    a, b, unsure = (int(count) for count in rows.sum(0))
    low = high = None
    if len(rows) > 1:
        interval = bootstrap([rows], _preference, seed=study.seed, method="percentile")
        low, high = 0.5 + interval.low, 0.5 + interval.high
    return Result(
        question=question,
        votes=a + b + unsure,
        captions=len(rows),
        a=a,
        b=b,
        unsure=unsure,
        half=_share(a + unsure / 2, a + b + unsure),
        decided=_share(a, a + b) if a + b else None,
        low=low,
        high=high,
        sign_p=sign_p,
        holm_p=holm_p,
        agreement=agreement(captions),
        resolves=resolved(len(rows)),
    )


def _preference(rows: np.ndarray) -> float:
    """How far A's share, with ties as half, lies from a half; rows of a, b and unsure."""
    a, b, unsure = rows.sum(0)
    return (a + unsure / 2) / (a + b + unsure) - 0.5


def _share(wins: float, n: int) -> Share:
    share = wins / n
    return Share(share=share, margin=1.96 * math.sqrt(share * (1 - share) / n), n=n)


def resolved(n: int) -> float | None:
    """The least difference from a half that ``n`` judgements tell: 5 % level, 80 % power."""
    return resolves(lambda d: n_for_preference(0.5 + d), n, largest=0.5)
