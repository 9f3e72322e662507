"""Which pair a rater sees next, and which image on which side.

Both depend on the study's seed and the rater's name alone, but for one thing: pairs that fewer
raters have judged come first, so that several raters cover a large study together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from random import Random

from unclip.common.seeding import derive_seed
from unclip.study.questions import ARMS
from unclip.study.study import Pair, Study

BLOCK = 20  # pairs of one question that a rater sees in a row


def left_arm(study: Study, rater: str, pair: Pair) -> str:
    """The arm whose image ``rater`` sees on the left."""
    return ARMS[derive_seed("side", study.seed, rater, pair.id) & 1]


def arm_on(side: str, left: str) -> str:
    """The arm on ``side``, given which is on the left."""
    return left if side == "left" else ARMS[1 - ARMS.index(left)]


class Order:
    """The pairs of one rater.

    Args:
        study: The study.
        rater: The name.
        enough: Votes after which a pair is not handed out any more; None for never.
    """

    def __init__(self, study: Study, rater: str, enough: int | None = None):
        self._study, self._enough = study, enough
        rng = Random(derive_seed("order", study.seed, rater))
        self._first = rng.randrange(len(study.questions))
        self._pairs, self._catches, self._due = {}, {}, {}
        for question in study.questions:
            pairs, catches = (study.of(question, catch=catch) for catch in (False, True))
            rng.shuffle(pairs)
            rng.shuffle(catches)
            # One catch pair somewhere in each stretch of equal length, and none comes last.
            length = (len(pairs) + len(catches)) / max(1, len(catches))
            due = [
                min(int(length * (k + rng.random())), len(pairs) - 1 + k)
                for k in range(len(catches))
            ]
            self._pairs[question], self._catches[question] = pairs, catches
            self._due[question] = due

    def upcoming(self, voted: Iterable[str], counts: Counter[str], many: int = 2) -> list[Pair]:
        """The next pairs, at most ``many``.

        Args:
            voted: Pairs that the rater has judged.
            counts: Votes of all raters by pair.
            many: How many.
        """
        done, found = set(voted), list[Pair]()
        while len(found) < many and (pair := self._next(done, counts)):
            done.add(pair.id)
            found.append(pair)
        return found

    def left(self, voted: Iterable[str], counts: Counter[str]) -> int:
        """How many pairs are still to be judged."""
        done, left = set(voted), 0
        for question in self._pairs:
            open_pairs = len(self._open(question, done, counts))
            catches = [pair for pair in self._catches[question] if pair.id not in done]
            left += open_pairs + (len(catches) if open_pairs else 0)
        return left

    def _next(self, done: set[str], counts: Counter[str]) -> Pair | None:
        questions = list(self._pairs)
        at = (self._first + len(done) // BLOCK) % len(questions)
        for question in questions[at:] + questions[:at]:
            pairs = self._open(question, done, counts)
            if not pairs:
                continue
            catches, due = self._catches[question], self._due[question]
            caught = sum(pair.id in done for pair in catches)
            judged = caught + sum(pair.id in done for pair in self._pairs[question])
            if caught < len(catches) and due[caught] <= judged:
                return next(pair for pair in catches if pair.id not in done)
            return min(pairs, key=lambda pair: counts[pair.id])  # the first of the least
        return None

    def _open(self, question: str, done: set[str], counts: Counter[str]) -> list[Pair]:
        return [
            pair
            for pair in self._pairs[question]
            if pair.id not in done and (self._enough is None or counts[pair.id] < self._enough)
        ]
