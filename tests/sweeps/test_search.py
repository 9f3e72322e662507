"""What is suggested: a function of the file, the seed and the trials before, better than chance."""

from __future__ import annotations

import pytest

from unclip.sweeps import search, spec
from unclip.sweeps.trials import FAILED, FINISHED, PRUNED


def suggested(file, count, *, seed=0, states=(), begun=()):
    sweep, trials = spec.load(str(file)), list(begun)
    while len(trials) < count:
        trial = search.suggest(sweep, trials, seed=seed)
        trial.state = states[trial.number] if trial.number < len(states) else FINISHED
        if trial.state != FAILED:
            trial.value = (trial.parameters["x"] - 0.3) ** 2
            trial.history = [trial.value]
        trials.append(trial)
    return trials


def values(trials):
    return [trial.parameters["x"] for trial in trials]


@pytest.mark.parametrize("method", ["random", "bayes", "grid"])
def test_the_same_seed_suggests_the_same_and_another_other(sweep_file, method):
    x = {"values": list(range(20))} if method == "grid" else {"min": 0.0, "max": 1.0}
    file = sweep_file(method=method, parameters={"x": x})
    first = suggested(file, 9)
    assert len(set(values(first))) == 9
    assert values(suggested(file, 9)) == values(first)
    assert values(suggested(file, 9, begun=first[:6])) == values(first)
    assert values(suggested(file, 9, seed=1)) != values(first)


def test_bayes_does_better_than_chance(sweep_file):
    late = values(suggested(sweep_file(), 20))[10:]
    assert sum(abs(x - 0.3) for x in late) / len(late) < 0.15  # at random: 0.29


def test_higher_is_better_where_the_file_says_so(sweep_file):
    file = sweep_file(metric={"name": "val/loss", "goal": "maximize"})
    late = values(suggested(file, 20))[10:]
    assert sum(late) / len(late) > 0.75  # (x - 0.3)^2 is highest at 1


def test_pruned_and_failed_trials_are_history_too(sweep_file):
    file = sweep_file()
    whole = suggested(file, 12)
    other = suggested(file, 12, states=[FINISHED, PRUNED, FAILED, FINISHED, PRUNED])
    assert values(other)[:5] == values(whole)[:5]  # at random
    assert values(other) != values(whole)


def test_constants_are_passed_on_and_not_searched(sweep_file):
    file = sweep_file(parameters={"x": {"min": 0, "max": 9}, "data.shuffle": {"value": True}})
    trial = suggested(file, 1)[0]
    assert trial.parameters["data.shuffle"] is True
    assert set(trial.drawn) == {"x"}
