"""What `make mutants` says of bugs that are seen, missed, and no longer fit."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from mutants import ROOT, Mutant, check, read
from rich.console import Console

CODE = "def double(x):\n    return 2 * x\n"
TEST = "from code_of_ours import double\n\n\ndef test_two():\n    assert double(2) == 4\n"


@pytest.fixture
def project(tmp_path) -> Path:
    root = tmp_path / "project"
    (root / "src").mkdir(parents=True)
    (root / "src/code_of_ours.py").write_text(CODE)
    (root / "test_double.py").write_text(TEST)
    (root / "pyproject.toml").write_text("[tool.pytest.ini_options]\nmarkers = ['slow']\n")
    return root


def mutant(old: str, new: str, **changes) -> Mutant:
    given = {"file": "src/code_of_ours.py", "tests": ["test_double.py"], "name": f"{old} is {new}"}
    return Mutant(old=old, new=new, **(given | changes))


def checked(project: Path, *mutants: Mutant) -> tuple[bool, str]:
    said = io.StringIO()
    found = check(
        list(mutants), root=project, jobs=2, console=Console(file=said, width=200), heavy=["pytest"]
    )
    return found, said.getvalue()


def test_a_bug_that_a_test_sees_is_killed_and_the_code_stays_as_it_was(project):
    found, said = checked(project, mutant("2 * x", "3 * x"), mutant("2 * x", "2 * x + 1"))
    assert found
    assert "2 mutants: 2 killed, 0 SURVIVED, 0 could not apply" in said
    assert "test_double.py::test_two" in said
    assert (project / "src/code_of_ours.py").read_text() == CODE


def test_a_bug_that_no_test_sees_fails_the_command(project):
    found, said = checked(project, mutant("2 * x", "3 * x"), mutant("2 * x", "x + 2"))
    assert not found
    assert "SURVIVED" in said
    assert "1 killed, 1 SURVIVED" in said


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"old": "4 * x"}, "has '4 * x' 0 times, not 1"),
        ({"old": "x"}, "has 'x' 2 times, not 1"),
        ({"file": "src/nowhere.py"}, "no such file"),
        ({"tests": ["test_nothing.py"]}, "no such tests: test_nothing.py"),
        ({"tests": []}, "none are named"),
    ],
)
def test_a_bug_that_does_not_fit_fails_the_command(project, changes, why):
    given = {"old": "2 * x", "new": "3 * x", "name": "a bug"} | changes
    found, said = checked(project, mutant(given.pop("old"), given.pop("new"), **given))
    assert not found
    assert why in said
    assert "1 could not apply" in said


def test_tests_that_fail_without_a_bug_say_nothing_of_bugs(project):
    (project / "test_double.py").write_text(TEST.replace("== 4", "== 5"))
    found, said = checked(project, mutant("2 * x", "3 * x"))
    assert not found
    assert "without a bug, fails: test_double.py::test_two" in said
    assert "killed" not in said


def test_a_bug_that_stops_pytest_from_running_is_not_taken_for_one_that_is_seen(project):
    found, said = checked(project, mutant("return 2 * x", "return ="))
    assert not found
    assert "could not apply" in said


def test_a_slow_test_runs_where_it_is_named(project):
    slow = TEST.replace("def test_two", "@pytest.mark.slow\ndef test_two")
    (project / "test_double.py").write_text("import pytest\n" + slow)
    (project / "pyproject.toml").write_text(
        "[tool.pytest.ini_options]\nmarkers = ['slow']\naddopts = \"-m 'not slow'\"\n"
    )
    bug = mutant("2 * x", "3 * x", tests=["test_double.py::test_two"])
    assert checked(project, bug)[0]


def test_every_bug_of_the_list_fits_and_names_no_golden_file():
    found = read(ROOT / "tests" / "mutants.toml")
    for one in found:
        assert one.changed(ROOT) != (ROOT / one.file).read_text("utf-8")
        assert not any(test.startswith("tests/golden") for test in one.tests), one.name
