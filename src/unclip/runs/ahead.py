"""What will be trained, in which order and for how long: said before it begins."""

from __future__ import annotations

from collections.abc import Sequence

from unclip.common.counted import counted
from unclip.common.fields import leaves
from unclip.common.terminal import say
from unclip.config.listing import aligned
from unclip.config.load import ResolvedExperiment, parse_overrides
from unclip.config.text import opening

UNKNOWN = "not known with these settings"
_SAME_TIME = ("trainer.seed", "trainer.deterministic")
_OWN = ("run.", "clip", "pca", "about")  # never a parent's


def announce(resolved: ResolvedExperiment, parents: Sequence[ResolvedExperiment]) -> None:
    """Print the runs that come before ``resolved``, and which overrides are not for them."""
    if not parents:
        return
    say(f"{resolved.name} depends on runs that are not there yet. In this order:")
    print_table([*parents, resolved])
    for parent in parents:
        if kept := not_passed(resolved, parent):
            verb, example = parent.stage.verb, f"{kept[0]}=..."
            say(
                f"{', '.join(kept)}: for {resolved.name} alone; to set it for {parent.name} too, "
                f"run `unclip {verb} {parent.name} {example}` first"
            )


def not_passed(resolved: ResolvedExperiment, parent: ResolvedExperiment) -> list[str]:
    """What was typed for ``resolved`` that ``parent`` has too, with another value."""
    theirs, ours = dict(leaves(parent.as_dict())), dict(leaves(resolved.as_dict()))
    typed = parse_overrides(resolved.overrides)
    return [k for k in typed if not k.startswith(_OWN) and k in theirs and theirs[k] != ours.get(k)]


def print_table(
    experiments: Sequence[ResolvedExperiment], titles: Sequence[str] = (), *, times: bool = True
) -> None:
    """A line for each of ``experiments``, in the order in which they run; ``titles`` begin them.

    Without ``times`` nothing says how long they take: the caller knows better.
    """
    rows: list[tuple[str, ...]] = [describe(each)[: None if times else -1] for each in experiments]
    if titles:
        rows = [(title, *row) for title, row in zip(titles, rows)]
    for line in aligned(rows):
        say(f"  {line}")
    if times and any(row[-1] == UNKNOWN or "not measured" in row[-1] for row in rows):
        say("  `unclip plan EXPERIMENT --gpus N --device NAME` estimates times")


def describe(resolved: ResolvedExperiment) -> tuple[str, str, str, str]:
    """The command, the experiment, its length, and the time that its file gives."""
    config = resolved.config
    if resolved.stage.trains:
        length = counted(config.trainer.max_steps, "step")
        length += f" of {counted(config.data.batch_size, 'sample')}"
    else:
        length = "one pass over its samples"
    time = opening(resolved.files[0]).get("time", "not measured")
    if any(map(_changes_time, parse_overrides(resolved.overrides))):
        time = UNKNOWN
    return resolved.stage.verb, resolved.name, length, time


def _changes_time(key: str) -> bool:
    decides = key.startswith(("model.", "trainer.")) or key == "data.batch_size"
    return decides and key not in _SAME_TIME
