"""Sweep files, in W&B's own format (experiments/sweeps/*.yaml): found, read and checked.

They are untrusted: the command may only be `unclip train` or `unclip evaluate`, and where runs go
is not theirs to say.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unclip.common import yaml_text
from unclip.common.checks import nearest
from unclip.common.errors import UserError
from unclip.config.files import experiment_roots
from unclip.config.load import OVERRIDE, ResolvedExperiment, load_experiment, parse_overrides
from unclip.evaluation.config import read_evaluation
from unclip.sweeps.early import EarlyStop, early_stop
from unclip.sweeps.parameters import Parameter, parameter

KEYS = (
    *("name", "description", "project", "entity", "program", "method", "metric", "parameters"),
    *("early_terminate", "command", "run_cap"),
)
MOST_POINTS = 100_000  # of a grid, which is held in memory
METHODS = ("grid", "random", "bayes")
ARGS = "${args_no_hyphens}"
OPTIONS = {"train": ("--with-parents",), "evaluate": ()}
"""What a command may be, and its options."""


@dataclass(frozen=True)
class Sweep:
    """A sweep file, read."""

    path: Path
    content: dict[str, Any]  # of the file, for W&B
    method: str  # one of METHODS
    metric: str
    maximize: bool
    target: float | None  # of the metric; a trial that reaches it is the last
    parameters: tuple[Parameter, ...]
    early: EarlyStop | None
    words: tuple[str, ...]  # of the command after `unclip`, ARGS among them
    run_cap: int | None

    @property
    def name(self) -> str:
        """Of the file."""
        return self.path.stem

    @property
    def about(self) -> str:
        """What it is for, in a line."""
        return str(self.content.get("description", ""))

    @property
    def searched(self) -> list[Parameter]:
        """The parameters that are no constants."""
        return [p for p in self.parameters if p.drawn is not None]

    @property
    def points(self) -> int | None:
        """How many trials there can be; None where there is no end."""
        if self.method != "grid":
            return None
        count = 1
        for each in self.searched:
            count *= len(each.choices)
        return count

    def lower(self, value: float) -> float:
        """``value`` of the metric, turned so that lower is better."""
        return -value if self.maximize else value

    def command(
        self, values: Mapping[str, Any], overrides: Sequence[str] = (), folder: Path | None = None
    ) -> list[str]:
        """What runs a trial with these values of the parameters, without the word `unclip`.

        The values have the form that W&B's agent gives them. A trial with a ``folder`` goes on in
        it. Nothing is sent to W&B unless ``overrides`` say so: the sweep is a local one. Of a key
        that is given twice the last value stays.
        """
        given = [f"{name}={value}" for name, value in values.items()]
        words = []
        for word in self.words:
            if not word.startswith("tracking."):
                words += [*given, *overrides] if word == ARGS else [word]
        if folder is not None:
            words += [f"run.dir={folder}", *(["--continue"] if words[0] == "train" else [])]
        last = {word.partition("=")[0]: at for at, word in enumerate(words)}
        return [
            word
            for at, word in enumerate(words)
            if "=" not in word or last[word.partition("=")[0]] == at
        ]

    def online_command(self, overrides: Sequence[str]) -> list[str]:
        """The file's command with ``overrides``, for W&B's agent."""
        words = list(self.content["command"])
        at = words.index(ARGS)
        given = parse_overrides(overrides)
        kept = [
            [w for w in part if w.partition("=")[0] not in given]
            for part in (words[:at], words[at:])
        ]
        return [*kept[0], *overrides, *kept[1]]

    def process(
        self, values: Mapping[str, Any], overrides: Sequence[str], folder: Path
    ) -> list[str]:
        """The same, as a program and its arguments."""
        return [sys.executable, "-m", "unclip", *self.command(values, overrides, folder)]


def files() -> dict[str, Path]:
    """The sweeps that can be found, by name."""
    found: dict[str, Path] = {}
    for root in experiment_roots():
        for path in sorted((root / "sweeps").glob("*.yaml")):
            found.setdefault(path.stem, path)
    return found


def load(name: str) -> Sweep:
    """The sweep called ``name``, or at a path.

    Raises:
        UserError: it is not there, or something in it is wrong or cannot be done here.
    """
    known = files()
    path = Path(name) if name.endswith((".yaml", ".yml")) else known.get(name)
    if path is None:
        raise UserError(f"{name}: no such sweep{nearest(name, known)}")
    if not path.is_file():
        raise UserError(f"{name}: no such sweep file")
    content = yaml_text.read_file(path)
    for key in content:
        if key not in KEYS:
            raise UserError(f"{path}: {key}: unknown key{nearest(key, KEYS)}")
    method, given = content.get("method"), content.get("parameters")
    if method not in METHODS:
        raise UserError(f"{path}: method: {method!r} must be one of {', '.join(METHODS)}")
    if not isinstance(given, dict) or not given:
        raise UserError(f"{path}: parameters: must be a mapping of fields to their values")
    early = content.get("early_terminate")
    sweep = Sweep(
        path=path,
        content=content,
        method=method,
        **_metric(content.get("metric"), path),
        parameters=tuple(parameter(key, value, str(path)) for key, value in given.items()),
        early=None if early is None else early_stop(early, str(path)),
        words=_words(content.get("command"), path),
        run_cap=content.get("run_cap"),
    )
    _fits(sweep)
    return sweep


def _metric(given: Any, path: Path) -> dict[str, Any]:
    known = ("name", "goal", "target")
    if not isinstance(given, dict) or not isinstance(given.get("name"), str):
        raise UserError(f"{path}: metric.name: name the metric to optimise, as val/loss")
    for key in given:
        if key not in known:
            raise UserError(f"{path}: metric.{key}: unknown key{nearest(key, known)}")
    goal, target = given.get("goal", "minimize"), given.get("target")
    if goal not in ("minimize", "maximize"):
        raise UserError(f"{path}: metric.goal: {goal!r} must be minimize or maximize")
    if target is not None and type(target) not in (int, float):
        raise UserError(f"{path}: metric.target: {target!r} must be a number")
    return {"metric": given["name"], "maximize": goal == "maximize", "target": target}


def _words(given: Any, path: Path) -> tuple[str, ...]:
    """The command after `unclip`; whatever is not of that form is refused."""
    here = f"{path}: command"
    if not isinstance(given, list) or not all(isinstance(word, str) for word in given):
        raise UserError(f"{here}: must be a list of words that ends in {ARGS}")
    words = [w for w in given if w != "${env}"]
    if words[:2] in (["python", "-m"], ["${interpreter}", "-m"]):
        words = words[2:]
    if words[:1] != ["unclip"] or len(words) < 3 or words[1] not in OPTIONS:
        raise UserError(f"{here}: must run `unclip train` or `unclip evaluate`, nothing else")
    words = words[1:]
    if words.count(ARGS) != 1:
        raise UserError(f"{here}: must hold {ARGS} once, where the parameters go")
    for word in words[1:]:
        if "${" in word and word != ARGS:
            raise UserError(f"{here}: {word} is not read here; write {ARGS}")
        if word.startswith("-") and word not in OPTIONS[words[0]]:
            raise UserError(f"{here}: {word} is not allowed in a sweep")
    return tuple(words)


def _fits(sweep: Sweep) -> None:
    cap = sweep.run_cap
    if cap is not None and (type(cap) is not int or cap < 1):
        raise UserError(f"{sweep.path}: run_cap: {cap!r} must be a whole number from 1")
    if sweep.points is not None and sweep.points > MOST_POINTS:
        raise UserError(f"{sweep.path}: parameters: a grid of more than {MOST_POINTS:,} points")
    for each in sweep.searched:
        if sweep.method == "grid" and not each.choices:
            raise UserError(
                f"{sweep.path}: parameters.{each.name}: a grid needs `values`; give them, or take "
                "method random or bayes"
            )
    try:
        typed = parse_overrides(word for word in sweep.words if "=" in word)
    except UserError as error:
        raise UserError(f"{sweep.path}: command: {error}") from None
    for each in sweep.parameters:
        if each.name in typed:
            raise UserError(f"{sweep.path}: command: {each.name}: is a parameter; leave it out")
    for word in (*sweep.words, *(f"{each.name}=" for each in sweep.parameters)):
        if word.startswith("run."):
            key = word.split("=")[0]
            raise UserError(f"{sweep.path}: {key}: where runs go is not for a sweep file to say")


def check(sweep: Sweep, overrides: Sequence[str]) -> ResolvedExperiment | None:
    """Refuse what no trial could be: a field that is not there, a value out of range.

    The first value of each parameter is tried; other combinations may still fail, as trials.

    Returns:
        The experiment of that trial; None if trials evaluate a cascade.
    """
    swept = [each.name for each in sweep.parameters]
    for key in parse_overrides(overrides):
        if key in swept or key.startswith("run."):
            why = "is searched" if key in swept else "is for the sweep to say (--dir)"
            raise UserError(f"{key}: {why}; leave it out")
    values = {p.name: p.value(p.lowest) for p in sweep.parameters}
    verb, *words = sweep.command(values, overrides)
    named = [word for word in words if "=" not in word and not word.startswith("-")]
    given = [word for word in words if "=" in word]
    if len(named) != 1:
        raise UserError(f"{sweep.path}: command: must name one experiment or cascade")
    try:
        if verb == "train":
            return load_experiment(named[0], given)
        read_evaluation(given)
        return None
    except UserError as error:
        raise UserError(f"{sweep.path}: {str(error).removeprefix(f'{OVERRIDE}: ')}") from None
