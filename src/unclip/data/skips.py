"""Bad samples that were left out: counted, logged once and judged, whichever worker met them."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from unclip.common.counted import counted
from unclip.common.errors import UserError
from unclip.data.dataset import Example

logger = logging.getLogger(__name__)

_JUDGE_FROM = 50  # samples before the share of bad ones says anything
_KIND = re.compile(r": ([^:(]+)(?: \(.*\))?$")  # the problem, behind file and key, without details


class BatchReport(NamedTuple):
    """A batch with what was wrong on the way to it."""

    batch: Any
    examples: int
    problems: list[tuple[str, ...]]  # of each example that stands in for a bad sample


@dataclass(frozen=True)
class ReportingCollate:
    """A `collate` that reports the bad samples beside its batch, from a worker to the process."""

    collate: Callable[[Sequence[Example]], Any]

    def __call__(self, examples: Sequence[Example] | BatchReport) -> BatchReport:
        """Collate ``examples``, unless the dataset has made a batch of them itself."""
        if isinstance(examples, BatchReport):
            return examples
        problems = [example.problems for example in examples if example.problems]
        return BatchReport(self.collate(examples), len(examples), problems)


class Skips:
    """The bad samples among all that a process was given.

    Args:
        most: Share of bad samples that stops the run.
    """

    def __init__(self, most: float):
        self._most = most
        self._given = 0
        self._kinds: Counter[str] = Counter()
        self._logged: set[str] = set()

    @property
    def count(self) -> int:
        """How many were skipped; one that is drawn again counts again."""
        return self._kinds.total()

    def noted(self, reported: BatchReport) -> Any:
        """The batch, after what was skipped for it was counted and logged.

        Raises:
            UserError: Too large a share of all samples was skipped.
        """
        self._given += reported.examples
        for problems in reported.problems:
            self._kinds[kind_of(problems[0])] += 1
            for problem in problems:  # the last ones are of samples that were tried in its place
                if problem not in self._logged:
                    self._logged.add(problem)
                    logger.warning("skipped %s", problem)
        if self._given >= _JUDGE_FROM and self.count > self._most * self._given:
            kinds = ", ".join(f"{kind} ({count})" for kind, count in self._kinds.most_common())
            raise UserError(
                f"{self.count} of the first {counted(self._given, 'sample')} cannot be used, "
                f"more than data.max_skipped={self._most:g}: {kinds}; "
                f"the last: {reported.problems[-1][0]}; `unclip data inspect` lists them all"
            )
        return reported.batch


def kind_of(problem: str) -> str:
    """What a `BadSample` says without file, key, numbers and details.

    >>> kind_of("a.tar: 0003: the image is damaged (broken data stream)")
    'the image is damaged'
    """
    found = _KIND.search(problem)
    return re.sub(r"(?<!-)\d+", "N", found[1] if found else problem)
