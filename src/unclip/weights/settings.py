"""Values in the configuration files of other projects: each is used, or must be what ours does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from unclip.common.errors import UserError
from unclip.diffusion.config import (
    DiffusionConfig,
    ImageDiffusionConfig,
    PredictionKind,
    ScheduleKind,
)

Word = TypeVar("Word", bound=str)

SCHEDULER = "UnCLIPScheduler"
"""The class of the published folders; others have other timesteps and defaults."""

SCHEDULES: dict[str, ScheduleKind] = {
    "squaredcos_cap_v2": "cosine",
    "cosine": "cosine",
    "linear": "linear",
}
"""Their words for our `diffusion.schedule`."""
_BETAS: dict[str, ScheduleKind] = {"squaredcos_cap_v2": "cosine"}
_PREDICTIONS: dict[str, PredictionKind] = {"sample": "x0", "epsilon": "eps"}
_VARIANCES: dict[str, Any] = {"fixed_small_log": "fixed_small"}
_LEARNED: dict[str, Any] = {"learned_range": "learned_range"}  # of networks of images alone

LAYERS, BLOCKS = 1_000, 32
"""Of a transformer, of a level of a U-Net: more no network has, and would be built for hours."""


class Settings:
    """The values of one section of a file, each of which has to be asked for or allowed.

    Args:
        values: As the file has them; names that begin with ``_`` are notes.
        where: The file, which errors begin with.
    """

    def __init__(self, values: Mapping[str, Any], where: str):
        self._left = {k: v for k, v in values.items() if not k.startswith("_")}
        self.where = where

    def __contains__(self, name: str) -> bool:
        """Whether a value is there that has not been asked for."""
        return name in self._left

    def get(self, name: str, kind: Any, default: Any = None, *, most: int = 1_000_000) -> Any:
        """A value of a type, numbers from 0 to ``most``; without a default it must be there.

        Raises:
            UserError: it is missing, of another type or out of range.
        """
        if name not in self._left:
            if default is None:
                raise UserError(f"{self.where}: {name}: is missing; fetch it again")
            return default
        value = self._left.pop(name)
        if kind is float and type(value) is int:
            value = float(value)
        items = value if kind is list else [value]
        wanted = int if kind is list else kind
        if type(value) is not kind or len(items) > LAYERS:
            raise self.refusal(name, value)
        if any(type(v) is not wanted or (_is_number(v) and not 0 <= v <= most) for v in items):
            raise self.refusal(name, value)
        return value

    def take(self, name: str) -> Any:
        """A value of any type, None if it is missing."""
        return self._left.pop(name, None)

    def choice(self, name: str, choices: Mapping[str, Word], default: str) -> Word:
        """Our word for one of theirs."""
        value = self._left.pop(name, default)
        if not isinstance(value, str) or value not in choices:
            raise self.refusal(name, value)
        return choices[value]

    def fixed(self, **allowed: Any) -> None:
        """Values that have to be as they are here, if they are there; a tuple lists several."""
        for name, value in allowed.items():
            several = value if isinstance(value, tuple) else (value,)
            if name in self._left and (found := self._left.pop(name)) not in several:
                raise self.refusal(name, found)

    def ignored(self, *names: str) -> None:
        """Values that say nothing about what the network computes when it samples."""
        for name in names:
            self._left.pop(name, None)

    def finish(self) -> None:
        """Refuse what has not been asked for, unless it says that something is not there."""
        for name, value in self._left.items():
            if value not in (None, False):
                raise self.refusal(name, value)

    def refusal(self, name: str, value: Any) -> UserError:
        """What to raise for a value."""
        return UserError(
            f"{self.where}: {name}={str(value)[:60]}: no network of unclip does that; it is "
            "another kind of network"
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))


class Chain:
    """What a scheduler's configuration says: the chain, and how x_0 is clamped in sampling."""

    def __init__(self, diffusion: Any, sampler: dict[str, Any]):
        self.diffusion, self.sampler = diffusion, sampler


def scheduler(values: Mapping[str, Any], where: str, *, image: bool) -> Chain:
    """A ``scheduler_config.json`` of an UnCLIPScheduler."""
    s = Settings(values, where)
    if (cls := values.get("_class_name", SCHEDULER)) != SCHEDULER:
        raise s.refusal("_class_name", cls)
    cls = ImageDiffusionConfig if image else DiffusionConfig
    variances = _VARIANCES | _LEARNED if image else _VARIANCES
    diffusion = cls(
        steps=s.get("num_train_timesteps", int, 1000),
        schedule=s.choice("beta_schedule", _BETAS, "squaredcos_cap_v2"),
        prediction=s.choice("prediction_type", _PREDICTIONS, "epsilon"),
        variance=s.choice("variance_type", variances, "fixed_small_log"),
        tables="float32",
    )
    clamps = s.get("clip_sample", bool, True)
    reach = s.get("clip_sample_range", float, 1.0)
    s.finish()
    return Chain(diffusion, clamp(reach) if clamps else {})


def clamp(reach: float) -> dict[str, Any]:
    """The sampler's settings that clamp x_0."""
    return {"clip": "static", "clip_range": reach}
