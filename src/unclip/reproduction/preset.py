"""What is tested and with which networks: the files in ``experiments/reproduction``.

``claims.yaml`` lists the claims on scenes, ``claims_photos.yaml`` those on photographs. Every other
file there is a preset, which says which of them it is for, what the arms that they name are trained
from, and what that costs. Imports no torch.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from unclip.common import yaml_text
from unclip.common.checks import nearest
from unclip.common.errors import UserError
from unclip.common.fields import as_type, hints_of
from unclip.config.files import yaml_files
from unclip.evaluation.statistics.estimate import Expected
from unclip.reproduction.judges.table import ROWS, check_options
from unclip.stages.row import KINDS

FOLDER, CLAIMS = "reproduction", "claims"
Statistic = Literal["difference", "trend", "slopes"]
About = Literal["cascade", "method"]


@dataclass(frozen=True, kw_only=True)
class Training:
    """One network of a preset: an ordinary experiment, once for each seed."""

    experiment: str
    parents: dict[str, str] = field(default_factory=dict)  # its field to the training that it names
    overrides: list[str] = field(default_factory=list)
    minutes: float  # on one core (or the GPU), of the whole length

    @property
    def kind(self) -> str:
        """Which part of a cascade it is."""
        return self.experiment.split("/")[0]


@dataclass(frozen=True, kw_only=True)
class Preset:
    """The trainings that arms name, and what they cost on the machine that the preset is for."""

    about: str
    seeds: int  # trained runs of each arm of a claim about a method
    at_once: int  # trainings side by side
    seconds: dict[str, float]  # to judge one image, by judge
    overrides: list[str]  # of every training that has the field
    trainings: dict[str, Training]
    claims: str = CLAIMS  # the list of what is tested, or its file
    untested: dict[str, str] = field(default_factory=dict)  # what it cannot test, and why


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One side of a comparison."""

    parts: list[str]  # trainings that make it up
    options: dict[str, Any] = field(default_factory=dict)  # of the judge


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One sentence of the paper and how it is tested."""

    source: str  # section or figure
    says: str  # the sentence, in our words
    about: About  # one trained cascade, or a method: several trained runs
    judge: str  # of `unclip.reproduction.judges`
    options: dict[str, Any] = field(default_factory=dict)  # of the judge, for every arm
    value: str  # of `unclip.reproduction.values`: what is made of a caption's records
    n: int  # captions or images
    arms: dict[str, Arm]
    statistic: Statistic = "difference"  # first arm less the second; trend: over the arms in order
    x: list[float] = field(default_factory=list)  # of slopes: the settings of each half of the arms
    expected: Expected
    margin: float = 0.0  # largest effect that counts as none (expected: equal)
    note: str = ""  # what to know of the test

    @property
    def parts(self) -> set[str]:
        """Trainings that make up its arms."""
        return {part for arm in self.arms.values() for part in arm.parts}


Config = TypeVar("Config")
_NAME = re.compile(r"\w[\w.%-]*", re.ASCII)

JUDGING = "judge-"
"""Begins the name of the command that judges a claim, beside those that train."""
FEWEST = 12
"""Captions of an arm, and steps of a training, below which nothing is done."""


def find_presets() -> dict[str, Path]:
    """Names of presets to their files."""
    return {name: path for name, path in _files().items() if not name.startswith(CLAIMS)}


def load_preset(name: str) -> Preset:
    """A preset by name or file.

    Raises:
        UserError: there is none, or the file says what cannot be.
    """
    presets = find_presets()
    path = Path(name) if name.endswith((".yaml", ".yml")) else presets.get(name)
    if path is None:
        raise UserError(f"--preset {name}: no such preset{nearest(name, presets)}")
    content = yaml_text.read_file(path)
    trainings = _table(content.pop("trainings", None), Training, f"{path}: trainings")
    preset = _read(Preset, {**content, "trainings": trainings}, f"{path}: ")
    for key, training in trainings.items():
        where = f"{path}: trainings.{key}"
        if key.startswith(JUDGING):
            raise UserError(f"{where}: names that begin with {JUDGING} are those of judgements")
        if training.kind not in KINDS:
            raise UserError(f"{where}.experiment: {training.experiment}: must be KIND/NAME")
        for kind, parent in training.parents.items():
            if trainings.get(parent) is None or trainings[parent].kind != kind:
                raise UserError(f"{where}.parents: {kind}: {parent} is not a training of a {kind}")
        if training.minutes <= 0:
            raise UserError(f"{where}.minutes={training.minutes:g}: must be above 0")
    _check_circles(trainings, str(path))
    if preset.seeds < 1 or preset.at_once < 1:
        raise UserError(f"{path}: seeds and at_once must be at least 1")
    if not preset.about.strip():
        raise UserError(f"{path}: about: must say what it trains")
    for judge, seconds in preset.seconds.items():
        if judge not in ROWS or seconds < 0:
            raise UserError(f"{path}: seconds.{judge}: must be a judge and 0 or more")
    return preset


def _check_circles(trainings: Mapping[str, Training], where: str) -> None:
    done: set[str] = set()

    def ready() -> list[str]:
        return [
            k for k, one in trainings.items() if k not in done and done >= {*one.parents.values()}
        ]

    while some := ready():
        done.update(some)
    if left := [key for key in trainings if key not in done]:
        raise UserError(f"{where}: trainings.{left[0]}.parents: lead back to {left[0]}")


def load_claims(name: str = CLAIMS) -> dict[str, Claim]:
    """The claims of a list, by name or file, by id and in their order.

    Raises:
        UserError: there is no such list, or the file says what cannot be.
    """
    lists = {key: path for key, path in _files().items() if key.startswith(CLAIMS)}
    path = Path(name) if name.endswith((".yaml", ".yml")) else lists.get(name)
    if path is None:
        raise UserError(f"claims: {name}: no such list{nearest(name, lists)}")
    claims = {}
    for key, content in yaml_text.read_file(path).items():
        where = f"{path}: {key}"
        _check_name(str(key), str(path))
        if not isinstance(content, Mapping):
            raise UserError(f"{where}: must be a section")
        arms = _table(content.get("arms"), Arm, f"{where}.arms")
        claims[key] = claim = _read(Claim, {**content, "arms": arms}, f"{where}.")
        _check_claim(claim, where)
    return claims


def _check_claim(claim: Claim, where: str) -> None:
    """Refuse what could only fail after the trainings."""
    judge, value = claim.judge, claim.value
    if judge not in ROWS:
        raise UserError(f"{where}.judge: no judge {judge!r}{nearest(judge, ROWS)}")
    if value not in (known := ROWS[judge].values):
        near = nearest(value, known)
        raise UserError(f"{where}.value: no value {value!r} of the judge {judge}{near}")
    check_options(claim.judge, claim.options, f"{where}.")
    for name, arm in claim.arms.items():
        check_options(claim.judge, arm.options, f"{where}.arms.{name}.")
        if not arm.parts or len(set(arm.parts)) < len(arm.parts):
            raise UserError(f"{where}.arms.{name}.parts: must name trainings, each once")
    if claim.n < FEWEST:
        raise UserError(f"{where}.n={claim.n}: must be at least {FEWEST}")
    if claim.statistic == "slopes":
        if len(claim.x) < 2 or min(claim.x) <= 0 or len(set(claim.x)) < len(claim.x):
            raise UserError(f"{where}.x: slopes need 2 or more settings above 0, each once")
        if len(claim.arms) != 2 * len(claim.x):
            raise UserError(f"{where}.arms: slopes over {len(claim.x)} x need twice as many")
    elif claim.statistic == "trend" and len(claim.arms) < 3:
        raise UserError(f"{where}.arms: trend needs 3 or more")
    elif claim.statistic == "difference" and len(claim.arms) != 2:
        raise UserError(f"{where}.arms: difference needs 2, the first less the second")
    if claim.about == "method" and claim.statistic != "difference":
        raise UserError(f"{where}.statistic: must be difference with about: method")
    if claim.expected == "equal" and claim.margin <= 0:
        raise UserError(f"{where}.margin: must be above 0 with expected: equal")


def chosen_claims(
    claims: Mapping[str, Claim], only: list[str], option: str = "--only"
) -> dict[str, Claim]:
    """Those of ``only``, all if that is empty.

    Raises:
        UserError: there is no such claim.
    """
    for key in only:
        if key not in claims:
            raise UserError(f"{option} {key}: no such claim{nearest(key, claims)}")
    return {key: claim for key, claim in claims.items() if not only or key in only}


def _files() -> dict[str, Path]:
    return {name.split("/")[1]: paths[0] for name, paths in yaml_files(FOLDER).items()}


def _table(content: Any, cls: type[Config], where: str) -> dict[str, Config]:
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"{where}: must be a section with names")
    found = {}
    for key, value in content.items():
        _check_name(str(key), where)
        if not isinstance(value, Mapping):
            raise UserError(f"{where}.{key}: must be a section")
        found[str(key)] = _read(cls, value, f"{where}.{key}.")
    return found


def _check_name(name: str, where: str) -> None:
    """Names become those of folders and commands."""
    if not _NAME.fullmatch(name):
        raise UserError(f"{where}: {name!r:.100}: a name has letters, digits, _, -, . and % alone")


def _read(cls: type[Config], content: Mapping[str, Any], where: str) -> Config:
    """The frozen dataclass with what a section says; sections with free names are taken as such."""
    known = cls.__dataclass_fields__  # type: ignore[attr-defined]
    hints, given = hints_of(cls), {}
    for key, value in content.items():
        if key not in known:
            raise UserError(f"{where}{key}: unknown key{nearest(str(key), known)}")
        given[key] = _typed(hints[key], value, f"{where}{key}")
    try:
        return cls(**given)
    except TypeError as error:  # a field without a default is missing
        missing = str(error).split("argument")[-1].lstrip("s: ")
        raise UserError(f"{where.rstrip('.')}: has no {missing}") from None


def _typed(hint: Any, value: Any, where: str) -> Any:
    """A value of a field; of a section with free names, each of its values."""
    if typing.get_origin(hint) is not dict:
        if isinstance(value, Mapping):
            raise UserError(f"{where}: must be a value, not a section")
        return as_type(hint, value, where)
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: must be a section with names")
    of = typing.get_args(hint)[1]
    if of is Any or is_dataclass(of):  # whose sections `_table` has read
        return dict(value)
    return {str(name): as_type(of, one, f"{where}.{name}") for name, one in value.items()}
