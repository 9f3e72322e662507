"""Which values the next trial has: Optuna's samplers on the trials so far.

A suggestion is a function of the file, the seed and the trials before it, and of nothing else: the
study is rebuilt for each, with a seed of its own, so that a sweep that was killed resumes with
the suggestions it would have had.
"""

from __future__ import annotations

import optuna
from optuna.samplers import BaseSampler, GridSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from unclip.common.seeding import derive_seed
from unclip.sweeps import trials as t
from unclip.sweeps.spec import Sweep

STATES = {
    t.RUNNING: TrialState.RUNNING,
    t.FINISHED: TrialState.COMPLETE,
    t.PRUNED: TrialState.PRUNED,
    t.FAILED: TrialState.FAIL,
}
STARTUP = 5  # trials at random before TPE models them


def suggest(sweep: Sweep, before: list[t.Trial], *, seed: int) -> t.Trial:
    """The trial that comes after those in ``before``."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    number = len(before)
    study = optuna.create_study(sampler=_sampler(sweep, seed, number))  # it minimises
    study.add_trials([_told(sweep, trial) for trial in before])
    drawn = study.ask({p.name: p.drawn for p in sweep.searched if p.drawn is not None}).params
    values = {p.name: p.value(drawn.get(p.name)) for p in sweep.parameters}
    return t.Trial(number, values, drawn, f"trials/{number:04d}")


def _sampler(sweep: Sweep, seed: int, number: int) -> BaseSampler:
    own = derive_seed("sweep", seed, number) % 2**32
    if sweep.method == "random":
        return RandomSampler(seed=own)
    if sweep.method == "bayes":
        return TPESampler(seed=own, n_startup_trials=STARTUP)
    return GridSampler({p.name: p.choices for p in sweep.searched}, seed=seed)


def _told(sweep: Sweep, trial: t.Trial) -> FrozenTrial:
    """A trial as Optuna knows it."""
    finished = trial.state == t.FINISHED
    assert trial.value is not None or not finished
    return create_trial(
        state=STATES[trial.state],
        value=sweep.lower(trial.value) if finished and trial.value is not None else None,
        params=trial.drawn,
        distributions={p.name: p.drawn for p in sweep.searched if p.drawn is not None},
        intermediate_values={k: sweep.lower(v) for k, v in enumerate(trial.history)},
    )
