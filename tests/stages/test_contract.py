"""What `unclip.stages.row` promises of every stage folder, and that nobody else knows a stage."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import data_modules
import unclip
from unclip.stages import registry
from unclip.stages.experiment import BaseExperiment
from unclip.stages.row import KINDS, PRIOR

PACKAGE = Path(unclip.__file__).parent
FILES = [*PACKAGE.rglob("*.py"), *Path(data_modules.__file__).parent.rglob("*.py")]
ROWS = list(registry.STAGES.values())


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_stage_folder_offers_all_that_its_row_promises(row):
    files = {path.stem for path in (PACKAGE / "stages" / row.name).glob("*.py")}
    assert files >= {"__init__", *row.offers}
    for file, names in row.offers.items():
        module = importlib.import_module(f"unclip.stages.{row.name}.{file}")
        assert [name for name in names if not hasattr(module, name)] == []


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_gives_what_its_types_say(row):
    assert row.kind in KINDS
    assert set(row.parents) < set(KINDS)
    assert issubclass(row.experiment, BaseExperiment)
    fields = {field.name for field in dataclasses.fields(row.experiment)}
    assert fields >= set(row.parents)
    assert (row.sampler is not None) == ("sampler" in fields)
    assert row.trains == ("model" in fields)
    section = "model" if row.trains else row.kind
    known = {f"{section}.{f.name}" for f in dataclasses.fields(getattr(row.experiment(), section))}
    assert set(row.filled_fields(row.experiment())) <= known


def test_every_stage_folder_has_a_row():
    folders = {path.name for path in (PACKAGE / "stages").iterdir() if path.is_dir()}
    shared = {name for name in folders if name.startswith("_")}
    assert folders - shared == set(registry.STAGES)


def texts(tree: ast.AST) -> list[ast.Constant]:
    """The string constants of a file that are not docstrings."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    bodies = [n.body for n in ast.walk(tree) if isinstance(n, documented)]
    docs = {id(b[0].value) for b in bodies if b and isinstance(b[0], ast.Expr)}
    found = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and id(n) not in docs]
    return [n for n in found if isinstance(n.value, str)]


def elsewhere(name: str) -> list[Path]:
    """Files outside the table and the folder of the stage ``name``."""
    own = PACKAGE / "stages"
    return [p for p in FILES if p != own / "registry.py" and own / name not in p.parents]


@pytest.mark.parametrize("name", registry.of_kind(PRIOR))
def test_the_priors_names_stand_in_the_table_and_their_folders_alone(name):
    found = [
        f"{path.relative_to(PACKAGE.parent)}:{text.lineno}"
        for path in elsewhere(name)
        for text in texts(ast.parse(path.read_text()))
        if text.value == name
    ]
    assert found == []


def names_a_stage(node: ast.AST) -> bool:
    """Whether ``x.stage``, ``x.stage.name`` or ``entry.name`` is asked for."""
    chain = ast.unparse(node)
    return chain.endswith((".stage", ".stage.name", "row.name", "entry.name"))


def test_nowhere_is_a_stages_name_compared_to_choose_code():
    found = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Compare):
                continue
            sides = [node.left, *node.comparators]
            fixed = [s for s in sides if isinstance(s, ast.Constant) and s.value in registry.STAGES]
            if fixed and any(names_a_stage(side) for side in sides):
                found.append(f"{path.relative_to(PACKAGE.parent)}:{node.lineno}")
    assert found == []


def test_nowhere_is_a_stages_name_a_key_to_choose_code():
    found = []
    for path in elsewhere("registry"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Dict):
                keys = {k.value for k in node.keys if isinstance(k, ast.Constant)}
                if keys & set(registry.of_kind(PRIOR)):
                    found.append(f"{path.relative_to(PACKAGE.parent)}:{node.lineno}")
    assert found == []


def test_only_the_front_door_lies_directly_in_the_package():
    assert sorted(p.name for p in PACKAGE.glob("*.py")) == ["__init__.py", "__main__.py"]


@pytest.mark.slow
def test_the_front_door_opens_and_importing_it_imports_no_torch():
    code = """
import sys, unclip
assert set(unclip.__all__) <= set(dir(unclip))
assert not {"torch", "lightning"} & set(sys.modules)
unclip.load_experiment("prior/tiny")
assert "torch" not in sys.modules
from unclip import Pipeline, train
assert Pipeline.__module__ == "unclip.sharing.front_door"
assert train.__module__ == "unclip.runs.train"
try:
    unclip.nothing
except AttributeError as error:
    assert "nothing" in str(error)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_import_contracts_name_every_stage(row):
    settings = tomllib.loads((PACKAGE.parents[1] / "pyproject.toml").read_text("utf-8"))
    contracts = {c["name"]: c for c in settings["tool"]["importlinter"]["contracts"]}
    stage = f"unclip.stages.{row.name}"
    assert stage in contracts["A stage knows no other stage"]["modules"]
    inside = contracts["Inside stages: the table, the folders, what folders share"]["layers"]
    assert [stage in layer.split(" | ") for layer in inside].count(True) == 1
    assert f"{stage}.config" in contracts["Experiments are read without torch"]["source_modules"]
    without = contracts["Lightning stays where things are trained"]["source_modules"]
    files = {path.stem for path in (PACKAGE / "stages" / row.name).glob("*.py")}
    wanted = {f"{stage}.{file}" for file in files & {"network", "sampling", "part"}}
    assert wanted <= set(without)
