"""The smallest change of an experiment with which it fits, where no strategy alone is enough."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from unclip.common.adapters import adapts
from unclip.common.errors import UserError
from unclip.config.load import ResolvedExperiment, load_experiment
from unclip.planning.plan import CHECKPOINTING, HEADROOM, Plan, plan, states_of

OFFLOAD = "trainer.activation_offload=true"
EIGHT_BIT = "optim.name=adamw8bit"
LORA = "adapter.kind=lora"


class Change(NamedTuple):
    """Overrides with which an experiment fits, and the plan that says so."""

    overrides: list[str]
    plan: Plan


def smallest_change(found: Plan) -> Change | None:
    """The first that fits, without moving weights to the machine's memory; None if none does.

    What trains the same comes first: more micro-batches, then activations in the machine's memory
    as well; then 8-bit moments; then an adapter, if the experiment names the weights to adapt.
    """
    most = found.micro_batch * found.experiment.config.trainer.accumulate
    for kind in _kinds(found.experiment):
        if not _may_fit(found, kind):
            continue
        for further in ([], [OFFLOAD] * found.device.gpu):
            whole = [*kind, *further]
            if not _tried(found, [*whole, *_accumulate(found, most)], hows=("full",)):
                continue
            counts = (n for n in _counts(found) if n != most)
            fits = (n for n in counts if _tried(found, [*whole, *_accumulate(found, n)], ("full",)))
            return _tried(found, [*whole, *_accumulate(found, next(fits, most))])
    return None


def _may_fit(found: Plan, overrides: list[str]) -> bool:
    """Whether the weights and their states alone fit, which is quick to see."""
    experiment = _changed(found, overrides)
    sharded = experiment.config.trainer.strategy == "fsdp"
    return sharded or states_of(experiment) <= (1 - HEADROOM) * found.device.memory


def _kinds(resolved: ResolvedExperiment) -> Iterator[list[str]]:
    config = resolved.config
    yield []
    plain = config.optim.name == "adamw" and config.trainer.precision != "bf16-true"
    if plain and config.trainer.strategy != "fsdp":
        yield [EIGHT_BIT]
    if config.init is not None and hasattr(config, "adapter") and not adapts(config):
        yield [LORA]


def _counts(found: Plan) -> Iterator[int]:
    """The experiment's micro-batches of a step, and its multiples by two."""
    count = found.experiment.config.trainer.accumulate
    most = found.micro_batch * count
    while count <= most:
        if most % count == 0:
            yield count
        count *= 2


def _accumulate(found: Plan, count: int) -> list[str]:
    same = count == found.experiment.config.trainer.accumulate
    return [] if same else [f"trainer.accumulate={count}"]


def _changed(found: Plan, overrides: list[str]) -> ResolvedExperiment:
    typed = found.experiment
    changed = {each.partition("=")[0] for each in overrides}
    kept = [each for each in typed.overrides if each.partition("=")[0] not in changed]
    return load_experiment(typed.files[0], [*kept, *overrides])


def _tried(found: Plan, overrides: list[str], hows: Sequence[str] = CHECKPOINTING) -> Change | None:
    """The plan with ``overrides``, if it fits and they are an experiment."""
    device, memory = found.device.name, found.device.memory
    try:
        again = plan(
            _changed(found, overrides),
            gpus=found.gpus,
            device=device,
            mfu=found.mfu,
            memory=memory,
            hows=hows,
        )
    except UserError:
        return None
    rows = [row for row in again.rows if not row.layout.cpu_offload]
    if not any(row.fits for row in rows):
        return None
    again = again._replace(rows=rows)
    return Change([*overrides, *again.overrides], again)
