"""All checks, in the order in which they run: the plainest first, then what takes longer."""

from __future__ import annotations

from unclip.common.checks import nearest
from unclip.common.errors import UserError
from unclip.machine.check import Check
from unclip.machine.checks import (
    degradations,
    environment,
    memory,
    reference,
    resume,
    sampling,
    training,
    utilisation,
    waits,
)

CHECKS: tuple[Check, ...] = (
    environment.CHECK,
    reference.CHECK,
    training.PLAIN,
    training.COMPILED,
    training.SHARDED,
    resume.CHECK,
    sampling.CHECK,
    utilisation.CHECK,
    memory.CHECK,
    training.RECOMPUTED,
    training.ATTENTION,
    training.STRICT,
    training.OPTIMIZERS,
    waits.CHECK,
    degradations.CHECK,
    utilisation.SLOW_POINTS,
)


def chosen(names: list[str]) -> list[Check]:
    """The checks called ``names`` and those they come after; all if there are none.

    Raises:
        UserError: there is no such check.
    """
    known = {check.name: check for check in CHECKS}
    for name in names:
        if name not in known:
            raise UserError(f"--only {name}: no such check{nearest(name, known)}")
    wanted = {*names, *(name for own in names for name in known[own].after)}
    return [check for check in CHECKS if not names or check.name in wanted]
