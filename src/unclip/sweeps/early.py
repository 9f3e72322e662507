"""W&B's early termination, which it calls hyperband: one bracket of successive halving.

The rule is theirs, so that a file stops the same trials here and there; Optuna's pruners have
others (docs/adr/0009-sweeps.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from unclip.common.checks import nearest
from unclip.common.errors import UserError

KEYS = ("type", "min_iter", "max_iter", "s", "eta", "strict")
_FOREVER = 1e9  # iterations that no trial reaches


@dataclass(frozen=True)
class EarlyStop:
    """At which iterations (times that the metric was logged) the worse trials end."""

    bands: tuple[int, ...]
    eta: float  # the best 1/eta of a band go on
    strict: bool  # judged by the value at the band; else by the best value so far

    def stops(self, own: Sequence[float], all_: Sequence[Sequence[float]]) -> bool:
        """Whether the trial of history ``own`` ends; lower is better.

        ``all_`` holds the histories of all trials, running ones and ``own`` among them.
        """
        reached = [band for band in self.bands if band <= len(own)]
        if not reached:
            return False
        at = reached[-1] - 1
        values = sorted(history[at] for history in all_ if len(history) > at)
        threshold = values[int(1 / self.eta * len(values))]
        return (own[at] if self.strict else min(own)) > threshold


def early_stop(given: Any, where: str) -> EarlyStop:
    """The section ``early_terminate`` of a sweep file; ``where`` begins the error.

    ``min_iter`` gives the bands min_iter * eta^k, ``max_iter`` and ``s`` the s bands
    max_iter / eta^k below it.
    """
    here = f"{where}: early_terminate"
    if not isinstance(given, dict) or given.get("type") != "hyperband":
        raise UserError(f"{here}.type: must be hyperband")
    for key in given:
        if key not in KEYS:
            raise UserError(f"{here}.{key}: unknown key{nearest(key, KEYS)}")
    counts = {key: given[key] for key in ("min_iter", "max_iter", "s") if key in given}
    for key, value in counts.items():
        if type(value) is not int or value < 1:
            raise UserError(f"{here}.{key}: {value!r} must be a whole number from 1")
    eta, strict = given.get("eta", 3), given.get("strict", True)
    if isinstance(eta, bool) or not isinstance(eta, int | float) or eta <= 1:
        raise UserError(f"{here}.eta: {eta!r} must be above 1")
    if not isinstance(strict, bool):
        raise UserError(f"{here}.strict: must be true or false")
    if set(counts) not in ({"min_iter"}, {"max_iter", "s"}):
        raise UserError(f"{here}: give min_iter, or max_iter and s")
    bands = []
    if "min_iter" in counts:
        band = float(counts["min_iter"])
        while band < _FOREVER:
            bands.append(int(band))
            band *= eta
    else:
        below = [int(counts["max_iter"] / eta**k) for k in range(1, counts["s"] + 1)]
        bands = sorted(band for band in below if band >= 1)
    return EarlyStop(tuple(bands), eta, strict)
