"""Each distribution of W&B's draws what W&B documents; the others are refused."""

from __future__ import annotations

import math
from statistics import NormalDist

import optuna
import pytest

from unclip.common.errors import UserError
from unclip.sweeps.parameters import parameter

optuna.logging.set_verbosity(optuna.logging.WARNING)
N = 2000


def drawn(given):
    """Values at random, sorted."""
    found = parameter("x", given, "s.yaml")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return sorted(found.value(study.ask({"x": found.drawn}).params["x"]) for _ in range(N))


NORMAL = NormalDist(2, 0.5)
QUANTILES = [  # (entry, quantile function in closed form)
    ({"min": 1.0, "max": 3}, lambda u: 1 + 2 * u),
    ({"distribution": "uniform", "min": 1, "max": 3}, lambda u: 1 + 2 * u),
    ({"distribution": "log_uniform_values", "min": 0.01, "max": 1}, lambda u: 10 ** (2 * u - 2)),
    ({"distribution": "log_uniform", "min": -2, "max": 1}, lambda u: math.exp(3 * u - 2)),
    ({"distribution": "normal", "mu": 2, "sigma": 0.5}, NORMAL.inv_cdf),
    ({"distribution": "log_normal", "mu": 2, "sigma": 0.5}, lambda u: math.exp(NORMAL.inv_cdf(u))),
]


@pytest.mark.parametrize(("given", "quantile"), QUANTILES)
def test_numbers_have_the_quantiles_of_their_distribution(given, quantile):
    found = drawn(given)
    for u in (0.1, 0.25, 0.5, 0.75, 0.9):
        below = sum(value < quantile(u) for value in found) / N
        assert below == pytest.approx(u, abs=0.04)  # 3.6 sigma of 2000 draws


@pytest.mark.parametrize(("given", "quantile"), QUANTILES[1:])
def test_quantized_numbers_are_the_same_rounded(given, quantile):
    quantized = {**given, "distribution": f"q_{given['distribution']}", "q": 0.25}
    assert drawn(quantized) == [round(value / 0.25) * 0.25 for value in drawn(given)]


def test_whole_numbers_stay_whole():
    assert set(drawn({"min": 1, "max": 3})) == {1, 2, 3}
    widths = drawn({"distribution": "q_log_uniform_values", "min": 64, "max": 256, "q": 64})
    assert set(widths) == {64, 128, 192, 256}
    assert all(type(value) is int for value in widths)


def test_values_arrive_as_they_are():
    values = [None, True, 1.5, "linear", [1, 2], "10,10"]
    found = parameter("x", {"values": values}, "s.yaml")
    assert [found.value(word) for word in found.choices] == values
    assert parameter("x", {"value": [3]}, "s.yaml").value(None) == [3]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, "must be a mapping, as {values: [1, 2]} or {min: 0, max: 1}"),
        ({"min": 1}, "uniform needs max"),
        ({"min": 2.0, "max": 1.0}, "min 2.0 is above max 1.0"),
        ({"min": "1e-4", "max": 1.0}, ".min: '1e-4' must be a number"),
        ({"min": 0, "max": 1, "q": 2}, ".q: is not a key of int_uniform; valid: min, max"),
        ({"values": []}, ".values: must be a list of values"),
        ({"values": [1, 1]}, ".values: one is given twice"),
        ({"values": [{"a": 1}]}, ".values: a section cannot be a value"),
        (
            {"values": [1, 2], "probabilities": [0.5, 0.5]},
            ".probabilities: is not a key of categor",
        ),
        ({"distribution": "beta", "a": 1, "b": 1}, ".distribution: 'beta' is not known here"),
        ({"distribution": ["uniform"]}, ".distribution: ['uniform'] is not known here"),
        ({"parameters": {"y": {"value": 1}}}, "nested parameters are not read; write x.KEY"),
        ({"distribution": "log_uniform_values", "min": 0, "max": 1}, ".min: must be positive"),
        ({"distribution": "int_uniform", "min": 0.5, "max": 1}, "int_uniform needs whole numbers"),
        ({"distribution": "normal", "sigma": 0}, ".sigma: must be positive"),
        ({"distribution": "q_uniform", "min": 0, "max": 1, "q": 0}, ".q: must be positive"),
        ({"distribution": "uniform", "min": 0, "max": math.inf}, ".max: inf must be a number"),
        ({"distribution": "log_uniform", "min": 0, "max": 9999}, "its values are too large"),
        ({"distribution": "log_normal", "mu": 9999}, "its values are too large"),
        ({"min": 0, "max": 10**400}, "must be a number"),
    ],
)
def test_what_is_wrong_is_said(given, message):
    with pytest.raises(UserError) as caught:
        parameter("x", given, "s.yaml")
    assert str(caught.value).startswith("s.yaml: parameters.x")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
