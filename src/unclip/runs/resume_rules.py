"""What a resume does with each field of an experiment that was changed. Imports no torch.

A run's experiment.yaml says how the whole run was trained, so a field that decides what is trained
cannot change on the way: it is refused. Whatever is not in `RULES` is refused too.
"""

from __future__ import annotations

import dataclasses
import typing
from fnmatch import fnmatchcase
from typing import Any, Literal, NamedTuple

from unclip.common.checks import hints_of
from unclip.stages import registry

Effect = Literal["takes effect", "refused", "harmless"]


class Rule(NamedTuple):
    """What a resume does with the fields that match ``pattern``."""

    pattern: str
    effect: Effect
    remark: str = ""
    at_end: bool = False  # takes effect too where no step is left to train


_SAME_WEIGHTS = "another path to the same weights; other weights are refused"
_SAME_DATA = "another path to the same samples; other samples are refused"
_WHERE = "where and how fast; the curve stays the same up to rounding"

RULES = (
    Rule("trainer.max_steps", "takes effect", "longer; a cosine schedule is stretched to the end"),
    Rule("trainer.checkpoint_every", "takes effect"),
    Rule("trainer.val_every", "takes effect"),
    Rule("trainer.sample_every", "takes effect"),
    Rule("trainer.log_every", "takes effect"),
    Rule("evaluation.*", "takes effect"),
    Rule("trainer.keep_checkpoints", "takes effect"),
    Rule("data.on_error", "takes effect"),
    Rule("data.max_skipped", "takes effect"),
    Rule(
        "sampler.*", "takes effect", "in previews and the artifact; training does not sample", True
    ),
    Rule("tracking.*", "takes effect", at_end=True),
    Rule("about", "harmless"),
    Rule("run.*", "harmless", "where the folder is"),
    Rule("clip", "harmless", _SAME_WEIGHTS),
    Rule("pca", "harmless", _SAME_WEIGHTS),
    Rule("data.source", "harmless", _SAME_DATA),
    Rule("data.mixture.*.source", "harmless", _SAME_DATA),
    Rule("data.embeddings", "harmless", _SAME_DATA),
    Rule("data.cache_embeddings", "harmless"),
    Rule("data.num_workers", "harmless"),
    Rule("trainer.devices", "harmless", f"{_WHERE}; refused with optim.sam_rho"),
    Rule("trainer.nodes", "harmless", f"{_WHERE}; refused with optim.sam_rho"),
    Rule("trainer.accelerator", "harmless", _WHERE),
    Rule("trainer.strategy", "harmless", _WHERE),
    Rule("trainer.cpu_offload", "harmless", _WHERE),
    Rule("trainer.activation_checkpointing", "harmless", _WHERE),
    Rule("trainer.activation_offload", "harmless", _WHERE),
    Rule("trainer.compile", "harmless", _WHERE),
    Rule("trainer.memory_format", "harmless", _WHERE),
    Rule("trainer.attention", "harmless", _WHERE),
    Rule("trainer.threads", "harmless", f"{_WHERE}; refused with trainer.deterministic=strict"),
)


def rule_of(key: str) -> Rule:
    """The rule for a dotted ``key``."""
    found = (rule for rule in RULES if fnmatchcase(key, rule.pattern))
    return next(found, Rule(key, "refused"))


def is_refused(key: str, config: Any) -> bool:
    """Whether a run of ``config`` cannot be resumed with another value of ``key``."""
    if key in ("trainer.devices", "trainer.nodes"):  # a process perturbs by its own micro-batch
        return bool(config.optim.sam_rho > 0)
    if key == "trainer.threads":  # on which the bits of a CPU depend
        return bool(config.trainer.deterministic == "strict")
    return rule_of(key).effect == "refused"


def fields_of_stages() -> dict[str, list[str]]:
    """Every dotted field of a stage that trains -> the stages that have it, in their order."""
    found: dict[str, list[str]] = {}
    for stage in registry.STAGES.values():
        for key in _fields(stage.experiment) if stage.trains else ():
            found.setdefault(key, []).append(stage.name)
    return found


def _fields(cls: Any, prefix: str = "") -> list[str]:
    found = []
    for field in dataclasses.fields(cls):
        kind = hints_of(cls)[field.name]
        name = f"{prefix}{field.name}"
        if typing.get_origin(kind) is dict:
            found += _fields(typing.get_args(kind)[1], f"{name}.NAME.")
        elif dataclasses.is_dataclass(kind):
            found += _fields(kind, f"{name}.")
        else:
            found.append(name)
    return found


def markdown() -> str:
    """The table of all fields in docs/training.md."""
    stages = [stage.name for stage in registry.STAGES.values() if stage.trains]
    lines = ["| field | stages | on resume | |", "|---|---|---|---|"]
    for key, having in sorted(fields_of_stages().items()):
        rule = rule_of(key)
        shown = "all" if having == stages else ", ".join(having)
        remark = f"{rule.remark} |" if rule.remark else "|"
        lines.append(f"| `{key}` | {shown} | {rule.effect} | {remark}")
    return "\n".join(lines) + "\n"
