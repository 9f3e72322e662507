"""Values in the configuration files of other projects: each is used, or must be what ours does."""

from __future__ import annotations

import json
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
        section: What stands before each name in errors.
    """

    def __init__(self, values: Mapping[str, Any], where: str, section: str = ""):
        self._left = {k: v for k, v in values.items() if not k.startswith("_")}
        self.where, self._section = where, section

    def __contains__(self, name: str) -> bool:
        """Whether a value is there that has not been asked for."""
        return name in self._left

    def get(self, name: str, kind: Any, default: Any = None, *, most: int = 1_000_000) -> Any:
        """A value of a type; without a default it must be there.

        Whole numbers, also in lists, are from 1 to ``most``, others from 0.

        Raises:
            UserError: it is missing, of another type or out of range.
        """
        if name not in self._left:
            if default is None:
                raise UserError(f"{self.where}: {self._section}{name}: is missing; fetch it again")
            return default
        value = self._left.pop(name)
        if kind is float and type(value) is int:
            value = float(value)
        items = value if kind is list else [value]
        wanted = int if kind is list else kind
        if type(value) is not kind or len(items) > LAYERS:
            raise self.refusal(name, value)
        least = 1 if wanted is int else 0
        if any(type(v) is not wanted or (_is_number(v) and not least <= v <= most) for v in items):
            raise self.refusal(name, value)
        return value

    def given(self, name: str, kind: Any, default: Any, *, most: int = 1_000_000) -> Any:
        """The same, where null means the default."""
        if self._left.get(name) is None:
            self._left.pop(name, None)
        return self.get(name, kind, default, most=most)

    def share(self, name: str, default: float) -> float:
        """A share of dropout, in [0, 1)."""
        value: float = self.get(name, float, default, most=1)
        if value == 1:
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
            if name not in self._left:
                continue
            found = self._left.pop(name)
            if not any(found == v and (found is v or not isinstance(found, bool)) for v in several):
                other = " or ".join(json.dumps(v) for v in several)
                raise UserError(
                    f"{self.where}: {self._section}{name}={_short(found)}: only {other} can be "
                    "read; it is another kind of network"
                )

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
            f"{self.where}: {self._section}{name}={_short(value)}: no network of unclip does that; "
            "it is another kind of network"
        )


def section(content: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    """The object ``name`` in a file's content, empty if it is not there.

    Raises:
        UserError: it is something else.
    """
    found = content.get(name, {})
    if not isinstance(found, dict):
        raise UserError(f"{where}: {name}={_short(found)}: is not a section; fetch it again")
    return found


def _short(value: Any) -> str:
    """On one line."""
    return " ".join(str(value).split())[:60]


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
