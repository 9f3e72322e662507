"""Per-call overrides of the artifacts' sampler settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, NamedTuple, Protocol, get_args, get_type_hints

from unclip.common.checks import choices_of, nearest
from unclip.common.errors import UserError
from unclip.common.fields import from_text
from unclip.diffusion.config import INVERSIONS, SAMPLERS
from unclip.stages import registry

STAGES = ("prior", "decoder", "upsampler")
"""Whose sampler settings `Settings` can change."""
Precision = Literal["auto", "32", "tf32", "bf16", "fp16"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
"""In which networks sample: `unclip.pipeline.precision.choose_precision`."""
Offloading = Literal["none", "stages", "blocks"]
OFFLOADINGS: tuple[str, ...] = get_args(Offloading)
"""What takes turns on the device: `unclip.pipeline.execution.choose_offload`."""
Compiling = Literal["none", "blocks", "graphs"]
COMPILINGS: tuple[str, ...] = get_args(Compiling)
"""What is compiled: `unclip.pipeline.execution.choose_compilation`."""
USED_WITH = {
    "eta": ("sampler", ("ddim", "analytic_ddim")),
    "clip_range": ("clip", ("static",)),
}
"""Settings that have an effect only where another one has one of these values."""


class Sampled(Protocol):
    """A trained stage, or its experiment: settings, and which ones it can be sampled with."""

    @property
    def sampler(self) -> Any:
        """Its section ``sampler``."""

    def check_sampler(self, sampler: Any) -> None:
        """Raise a `UserError` that begins with ``sampler.`` for settings that do not fit it."""


@dataclass(frozen=True)
class Settings:
    """Changes to the artifacts' own sampler settings, by stage: ``{"decoder": {"steps": 50}}``."""

    changes: dict[str, dict[str, Any]] = field(default_factory=dict)
    batch: int = 16  # images at a time, which bounds the memory
    inversion: str = "fixed_point"  # convention of `unclip.diffusion.samplers.invert`
    iterations: int = 4  # evaluations of each step of inversion=fixed_point

    def check(self) -> None:
        """Refuse values that cannot be, whatever the stages are."""
        for name in ("batch", "iterations"):
            value = getattr(self, name)
            if type(value) is not int:
                raise UserError(f"{name}={value!r}: must be a whole number")
            if value < 1:
                raise UserError(f"{name}={value}: must be at least 1")
        if self.inversion not in INVERSIONS:
            raise UserError(f"inversion={self.inversion}: must be one of {', '.join(INVERSIONS)}")
        form = 'must be of the form {"decoder": {"steps": 50}}'
        if not isinstance(self.changes, dict):
            raise UserError(f"changes={self.changes!r}: {form}")
        for stage, changes in self.changes.items():
            if not isinstance(changes, dict) or (stage not in STAGES and "." in str(stage)):
                raise UserError(f"changes: {stage!r}: {changes!r}: {form}")
            if stage not in STAGES:
                raise UserError(f"{stage}: no such stage{nearest(stage, STAGES)}")

    def first_of(self, stage: str) -> str | None:
        """The key of the first change to ``stage``, if there is one."""
        return next((f"{stage}.{name}" for name in self.changes.get(stage, {})), None)

    def without(self, *keys: str) -> Settings:
        """The same without the changes named by ``keys``: ``prior``, or ``decoder.eta``."""
        kept = {
            stage: {k: v for k, v in changes.items() if not {stage, f"{stage}.{k}"} & set(keys)}
            for stage, changes in self.changes.items()
        }
        return replace(self, changes=kept)

    def unguided(self) -> Settings:
        """The same, with the decoder's guidance 1 where nothing is said of it.

        Edits want that: a guided inversion leaves so much of the image in x_T that z_i has less
        of a say (docs/manipulations.md).
        """
        decoder = {"guidance": 1.0, **self.changes.get("decoder", {})}
        return replace(self, changes={**self.changes, "decoder": decoder})

    def apply(self, stage: str, part: Sampled) -> Any:
        """The sampler settings of ``part`` with the changes of ``stage``.

        Raises:
            UserError: a setting that it does not have or that has no effect, or a value with which
                it cannot be sampled.
        """
        sampler, changes = part.sampler, self.changes.get(stage, {})
        _check_names(stage, changes, [sampler])
        types = get_type_hints(type(sampler))
        wanted = changes.get("sampler")
        if wanted in SAMPLERS and wanted not in choices_of(types["sampler"]):
            raise UserError(
                f"{stage}.sampler={wanted}: only a diffusion prior has the fitted errors that it "
                "needs"
            )
        try:
            typed = {k: from_text(types[k], v, f"{k}={v!r}") for k, v in changes.items()}
            changed = replace(sampler, **typed)
            changed.validate()
            part.check_sampler(changed)
        except UserError as error:
            text = str(error).removeprefix("sampler.")
            raise UserError(f"{stage}.{text}") from None
        for name, (other, values) in USED_WITH.items():
            if name in changes and (value := getattr(changed, other)) not in values:
                possible = choices_of(types[other])
                known = " and ".join(value for value in values if value in possible)
                raise UserError(
                    f"{stage}.{name}: has no effect with {stage}.{other}={value}; it is a setting "
                    f"of {known}"
                )
        if "guidance_interval" in changes and changed.guidance_interval and changed.guidance == 1:
            raise UserError(
                f"{stage}.guidance_interval: has no effect with {stage}.guidance=1, which is none"
            )
        return changed

    def ddim(self, part: Sampled, eta: float) -> Any:
        """The decoder's settings made DDIM, the sampler that can be inverted."""
        given = {"sampler", "eta"} & set(self.changes.get("decoder", {}))
        if given:
            name = sorted(given)[0]
            own = "`unclip vary` has --eta" if name == "eta" else "its inversion needs DDIM"
            raise UserError(f"decoder.{name}: is set by the manipulation itself; {own}")
        if not 0 <= eta <= 1:
            raise UserError(f"eta={eta}: must be in [0, 1]")
        return replace(self.apply("decoder", part), sampler="ddim", eta=eta)


def for_each(settings: Settings, stage: str, samplers: Sequence[Any]) -> list[Settings]:
    """``settings`` for each of several ``samplers`` of one ``stage``: the changes that it has.

    Raises:
        UserError: a change that none of them has.
    """
    changes = settings.changes.get(stage, {})
    _check_names(stage, changes, samplers)
    return [
        settings.without(*(f"{stage}.{name}" for name in changes if not hasattr(sampler, name)))
        for sampler in samplers
    ]


def check_changes(settings: Settings) -> None:
    """Refuse what no stage of its kind can have, before any is loaded.

    Raises:
        UserError: it names the first such change.
    """
    settings.check()
    for stage in settings.changes:
        experiments: list[Any] = [
            registry.STAGES[name].experiment() for name in registry.of_kind(stage)
        ]
        each = for_each(settings, stage, [experiment.sampler for experiment in experiments])
        refusals, accepted = [], False
        for experiment, own in zip(experiments, each):
            # Whether it has an effect depends on the artifact's own value of the other setting.
            others = {n: other for n, (other, _) in USED_WITH.items()}
            others["guidance_interval"] = "guidance"
            unsure = (n for n, other in others.items() if other not in own.changes[stage])
            own = own.without(*(f"{stage}.{name}" for name in unsure))
            if own.first_of(stage):
                try:
                    own.apply(stage, _AnyOf(experiment.sampler))
                    accepted = True
                except UserError as error:
                    refusals.append(error)
        if refusals and not accepted:
            raise refusals[0]


class _AnyOf(NamedTuple):
    """A stage of which only the kind is known."""

    sampler: Any

    def check_sampler(self, sampler: Any) -> None:
        """What depends on the trained network is checked when that is loaded."""


def _check_names(stage: str, changes: dict[str, Any], samplers: Sequence[Any]) -> None:
    known = list(dict.fromkeys(f.name for sampler in samplers for f in fields(sampler)))
    for name in changes:
        if name not in known:
            hint = nearest(name, known, otherwise=f"; it has {', '.join(known)}")
            raise UserError(f"{stage}.{name}: this {stage} has no such setting{hint}")
