"""What the resumes of a run mean to who repeats it: earlier ends, steps that were not recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

MOST = 100  # resumes that are looked at
_RECORDING = (
    *("trainer.log_every", "trainer.val_every", "trainer.sample_every"),
    *("evaluation.every", "evaluation.features"),
)


class Resume(NamedTuple):
    """From which step a run was resumed, and what was changed then."""

    step: int
    changed: dict[str, Any]  # key -> [then, now], as the provenance has it

    @property
    def extended(self) -> bool:
        """Whether the run had ended at this step, and was given more."""
        then = self.changed.get("trainer.max_steps")
        return isinstance(then, list) and then[:1] == [self.step]


def resumes(provenance: dict[str, Any]) -> list[Resume]:
    """Those of a run's provenance, which may be a stranger's; entries that say no step are not."""
    listed = provenance.get("resumed")
    found = []
    for entry in listed[:MOST] if isinstance(listed, list) else []:
        if isinstance(entry, dict) and type(entry.get("step")) is int:
            changed = entry.get("changed")
            found.append(Resume(entry["step"], changed if isinstance(changed, dict) else {}))
    return found


def bent(provenance: dict[str, Any], experiment: dict[str, Any]) -> list[int]:
    """Steps at which a cosine schedule was stretched before it had ended; no training repeats that.

    The run was stopped there, and continued with another ``trainer.max_steps``: what came before
    had the rates of the earlier length.
    """
    optim = experiment.get("optim")
    if not isinstance(optim, dict) or optim.get("schedule") != "cosine":
        return []
    stretched = (r for r in resumes(provenance) if "trainer.max_steps" in r.changed)
    return [r.step for r in stretched if not r.extended]


def bent_line(steps: list[int]) -> str:
    """What to say of `bent` steps."""
    return (
        f"stopped at step {', '.join(map(str, steps))} and continued with another "
        "trainer.max_steps: the cosine schedule changed on the way, which is not repeated; "
        "expect other weights"
    )


def lengths(provenance: dict[str, Any], max_steps: int) -> list[int]:
    """The steps at which the run ended, one after another; the last is ``max_steps``."""
    ends = {r.step for r in resumes(provenance) if r.extended and 0 < r.step < max_steps}
    return [*sorted(ends), max_steps]


def unrecorded(provenances: Iterable[dict[str, Any]], *, log_every: int) -> Callable[[int], bool]:
    """Whether a run of any of these may lack a step, or have one more, because it was resumed.

    A run validates where it ends, logs no speed of a window of ``log_every`` steps that it was
    stopped in, and recorded other steps before it was told to record these.
    """
    near = []
    for resume in (r for provenance in provenances for r in resumes(provenance)):
        first = 0 if any(key in resume.changed for key in _RECORDING) else resume.step
        near.append(range(first, resume.step + log_every + 1))
    return lambda step: any(step in steps for steps in near)
