"""The parameters of a sweep file: W&B's distributions, drawn through Optuna's."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from unclip.common.checks import nearest
from unclip.common.errors import UserError

_TAIL = 1e-6  # of a normal distribution, left out: its ends are infinite
_MOST = 1e300  # numbers below it are finite as floats

NUMBERS = {
    "int_uniform": ("min", "max"),
    "uniform": ("min", "max"),
    "log_uniform": ("min", "max"),  # of the natural logarithm
    "log_uniform_values": ("min", "max"),
    "normal": ("mu", "sigma"),
    "log_normal": ("mu", "sigma"),  # of the natural logarithm
}
"""Distributions of numbers and their keys; all but the first also quantized, as ``q_uniform``."""
QUANTIZED = tuple(f"q_{kind}" for kind in list(NUMBERS)[1:])
DEFAULTS = {"mu": 0.0, "sigma": 1.0, "q": 1.0}


@dataclass(frozen=True)
class Parameter:
    """One field of the experiment and where its values come from."""

    name: str  # dotted key
    drawn: BaseDistribution | None  # what the search draws from; None is a constant
    value: Callable[[Any], Any]  # the field's value, of what was drawn

    @property
    def choices(self) -> tuple[str, ...]:
        """The words of the values between which it chooses; none for numbers."""
        found = self.drawn.choices if isinstance(self.drawn, CategoricalDistribution) else ()
        return tuple(str(word) for word in found)

    @property
    def lowest(self) -> Any:
        """The first that can be drawn; None of a constant."""
        return self.choices[0] if self.choices else getattr(self.drawn, "low", None)

    @property
    def highest(self) -> Any:
        """The last that can be drawn; None of a constant."""
        return self.choices[-1] if self.choices else getattr(self.drawn, "high", None)

    @property
    def log(self) -> bool:
        """Whether its values are spread over orders of magnitude."""
        return bool(getattr(self.drawn, "log", False))


def parameter(name: str, given: Any, where: str) -> Parameter:
    """The entry ``name`` of a sweep file's ``parameters``; ``where`` begins the error.

    Raises:
        UserError: it is wrong, or of a distribution that has no exact counterpart here.
    """
    here = f"{where}: parameters.{name}"
    if not isinstance(given, Mapping):
        raise UserError(f"{here}: must be a mapping, as {{values: [1, 2]}} or {{min: 0, max: 1}}")
    if "parameters" in given:
        raise UserError(f"{here}: nested parameters are not read; write {name}.KEY")
    kind = given.get("distribution", _kind(given))
    keys = _keys(kind, here)
    for key in given:
        if key not in ("distribution", *keys):
            raise UserError(f"{here}.{key}: is not a key of {kind}{nearest(key, keys)}")
    for key in keys:
        if key not in given and key not in DEFAULTS:
            raise UserError(f"{here}: {kind} needs {key}")
    if kind == "constant":
        value = given["value"]
        return Parameter(name, None, lambda _: value)
    if kind == "categorical":
        return _categorical(name, given["values"], here)
    numbers = {key: _number(given.get(key, DEFAULTS.get(key)), f"{here}.{key}") for key in keys}
    if "min" in numbers and numbers["min"] > numbers["max"]:
        raise UserError(f"{here}: min {numbers['min']} is above max {numbers['max']}")
    try:
        found = _of_numbers(name, kind, numbers, here)
        found.value(found.highest)
    except OverflowError:
        raise UserError(f"{here}: its values are too large for numbers") from None
    return found


def _kind(given: Mapping[str, Any]) -> str:
    """What W&B takes an entry without ``distribution`` for."""
    if "value" in given or "values" in given:
        return "constant" if "value" in given else "categorical"
    ends = [given.get("min"), given.get("max")]
    return "int_uniform" if all(isinstance(end, int) for end in ends) else "uniform"


def _keys(kind: Any, here: str) -> tuple[str, ...]:
    known: dict[Any, tuple[str, ...]] = {"constant": ("value",), "categorical": ("values",)}
    known |= NUMBERS | {q: (*NUMBERS[q.removeprefix("q_")], "q") for q in QUANTIZED}
    if not isinstance(kind, str) or kind not in known:
        raise UserError(
            f"{here}.distribution: {kind!r} is not known here{nearest(str(kind), known)}"
        )
    return known[kind]


def _categorical(name: str, values: Any, here: str) -> Parameter:
    if not isinstance(values, list) or not values:
        raise UserError(f"{here}.values: must be a list of values")
    if any(isinstance(value, dict) for value in values):
        raise UserError(f"{here}.values: a section cannot be a value; give its keys one by one")
    # Words, as on the command line: Optuna stores no lists, and takes 1 and true for the same.
    words = tuple(str(value) for value in values)
    if len(set(words)) < len(words):
        raise UserError(f"{here}.values: one is given twice")
    return Parameter(name, CategoricalDistribution(words), dict(zip(words, values)).__getitem__)


def _number(value: Any, here: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _MOST:
        raise UserError(f"{here}: {value!r} must be a number")
    return value


def _of_numbers(name: str, kind: str, given: dict[str, float], here: str) -> Parameter:
    base = kind.removeprefix("q_")
    low, high = given.get("min", _TAIL), given.get("max", 1 - _TAIL)
    if kind == "int_uniform":
        if not (isinstance(low, int) and isinstance(high, int)):
            raise UserError(f"{here}: int_uniform needs whole numbers")
        return Parameter(name, IntDistribution(low, high), lambda drawn: drawn)
    if base == "log_uniform":
        low, high = math.exp(low), math.exp(high)
    if base == "log_uniform_values" and low <= 0:
        raise UserError(f"{here}.min: must be positive for {kind}")
    value = _normal(base, given, here) if "sigma" in given else float
    drawn = FloatDistribution(low, high, log=base.startswith("log_uniform"))
    if kind == base:
        return Parameter(name, drawn, value)
    q = given["q"]
    if q <= 0:
        raise UserError(f"{here}.q: must be positive")
    return Parameter(name, drawn, lambda x: round(value(x) / q) * q)


def _normal(base: str, given: dict[str, float], here: str) -> Callable[[float], float]:
    """Of a number in (0, 1), which is what is drawn, the quantile."""
    if given["sigma"] <= 0:
        raise UserError(f"{here}.sigma: must be positive")
    quantile = NormalDist(given["mu"], given["sigma"]).inv_cdf
    return quantile if base == "normal" else lambda u: math.exp(quantile(u))
