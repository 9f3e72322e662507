"""What a recipe runs, in which order, and what a failing stage does to the others."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import psutil
import pytest

from unclip.common.errors import UserError
from unclip.config.load import load_experiment
from unclip.runs.recipe import Recipe, _same, load, plan, run_recipe
from unclip.runs.side_by_side import run_together


def names(tasks):
    return [task.part for task in tasks]


def test_every_stage_comes_after_what_it_leans_on(tmp_path):
    given = {"dir": str(tmp_path), "upsamplers": ["upsampler/tiny"]}
    apart = plan(Recipe(**given), ["trainer.seed=3"])
    assert names(apart) == ["clip", "prior", "decoder", "upsampler_128"]
    beside = plan(Recipe(**given, together=True), [])
    assert names(beside) == ["clip", "upsampler_128", "decoder", "prior"]
    last = plan(Recipe(**given, pca="pca/tiny"), ["trainer.seed=3", "optim.lr=1"])
    assert names(last)[-1] == "pca"
    assert last[-1].overrides[0] == "trainer.seed=3"  # there is no optimizer
    for tasks in (apart, beside, last):
        for task in tasks:
            leans = task.part in ("prior", "decoder", "pca")
            assert task.needs == (("clip",) if leans else ())
            assert (f"clip={tmp_path / 'clip'}" in task.overrides) == leans
    assert "trainer.seed=3" in apart[1].overrides


def test_a_wrong_override_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(UserError, match="trainer"):
        plan(Recipe(dir=str(tmp_path)), ["trainer.seeds=3"])


def test_commands_that_run_together_have_their_lines_named(capfd):
    both = {
        name: [
            sys.executable,
            "-c",
            f"import os; print('I am {name}', os.environ['OMP_NUM_THREADS'])",
        ]
        for name in ("one", "two")
    }
    run_together(both)
    lines = capfd.readouterr().out.splitlines()
    assert sorted(line.split()[:4] for line in lines) == [
        ["one", "I", "am", "one"],
        ["two", "I", "am", "two"],
    ]


def test_one_that_no_other_can_run_beside_has_all_the_cores(capfd, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    program = "import os, sys; print(sys.argv[1], os.environ.get('OMP_NUM_THREADS', 'all'))"

    def threads(needs):
        names = ("first", "left", "right", "last")
        words = {name: [sys.executable, "-c", program, name] for name in names}
        run_together(words, at_once=2, needs=needs)
        lines = capfd.readouterr().out.splitlines()
        return {name: line.split()[2] for line in lines for name in [line.split()[1]]}

    sides = {"left": ["first"], "right": ["first"]}
    shared = {"left": "3", "right": "3"}
    assert threads(sides) == {**shared, "first": "3", "last": "3"}  # the last has no need to wait
    waits = {**sides, "last": ["left", "right"]}
    assert threads(waits) == {**shared, "first": "all", "last": "all"}
    finished = {**waits, "finished before": ["left"]}
    assert threads(finished) == {**shared, "first": "all", "last": "3"}  # as if it still ran


def test_no_more_run_at_once_than_are_to(tmp_path):
    program = (
        "import sys, time; from pathlib import Path\n"
        "folder = Path(sys.argv[1]); (folder / sys.argv[2]).touch()\n"
        "until = time.monotonic() + 60\n"
        "while time.monotonic() < until and not (folder / sys.argv[3]).exists(): time.sleep(0.01)\n"
        "time.sleep(0.3)\n"
        "assert len([*folder.iterdir()]) <= int(sys.argv[4])\n"
    )
    told = [("a", "b", "2"), ("b", "c", "3"), ("c", "c", "3")]  # b ends when c began, after a
    run_together(
        {t[0]: [sys.executable, "-c", program, str(tmp_path), *t] for t in told}, at_once=2
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "c"]


def test_a_command_begins_when_what_it_needs_has_ended(tmp_path):
    program = (
        "import sys, time; from pathlib import Path\n"
        "folder = Path(sys.argv[1])\n"
        "assert all((folder / name).exists() for name in sys.argv[3:]), sys.argv\n"
        "time.sleep(0.3); (folder / sys.argv[2]).touch()\n"
    )
    needs = {"child": ["parent"], "grandchild": ["child", "free"]}
    commands = {
        name: [sys.executable, "-c", program, str(tmp_path), name, *needs.get(name, [])]
        for name in ("grandchild", "child", "parent", "free")
    }
    ended = []
    run_together(
        commands,
        at_once=2,
        needs={**needs, "free": ["finished before"]},
        ended=lambda name: ended.append((name, len([*tmp_path.iterdir()]))),
    )
    assert {name for name, _ in ended} == {*commands}
    assert ended[-2:] == [("child", 3), ("grandchild", 4)]


def test_a_failing_stage_stops_the_others_and_is_named(capfd):
    began = time.monotonic()
    with pytest.raises(UserError, match=r"bad: failed \(exit 2\)"):
        run_together(
            {
                "bad": [sys.executable, "-c", "import sys; print('the reason'); sys.exit(2)"],
                "long": [sys.executable, "-c", "import time; time.sleep(60)"],
            }
        )
    assert time.monotonic() - began < 30
    assert "the reason" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("name", "changes", "same"),
    [
        ("prior/tiny", {}, True),
        ("prior/tiny", {"model.context": 77, "model.embed_dim": 64}, True),  # as the CLIP has it
        ("prior/tiny", {"tracking.wandb": True}, True),
        ("prior/tiny", {"model.width": 64}, False),
        ("prior/ar_tiny", {"model.context": 77}, False),
        ("decoder/tiny", {"noise_z_i": None}, True),  # made before the field existed
        ("decoder/tiny", {"optim.name": None}, True),
        ("decoder/quickstart", {"optim.name": None}, False),
    ],
)
def test_a_finished_run_is_kept_if_it_is_the_same_experiment(name, changes, same):
    now = load_experiment(name)
    before = now.as_dict()
    for key, value in changes.items():
        *sections, last = key.split(".")
        section = before
        for part in sections:
            section = section[part]
        if value is None:
            del section[last]
        else:
            section[last] = value
    assert _same(before, now) == same


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere children outlive a killed parent")
def test_what_a_recipe_has_started_ends_with_it_even_if_it_is_killed():
    program = (
        "from unclip.runs.side_by_side import run_together as run; run({'a': ['sleep', '600']})"
    )
    recipe = psutil.Popen([sys.executable, "-c", program])
    while not (started := [p for p in recipe.children() if p.name() == "sleep"]):
        time.sleep(0.05)
    recipe.kill()
    recipe.wait()
    _, alive = psutil.wait_procs(started, timeout=20)
    assert alive == []


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)]
)
def test_told_to_stop_a_recipe_stops_what_it_has_started(number):
    program = (
        "from unclip.runs.side_by_side import run_together as run; run({'a': ['sleep', '600']})"
    )
    recipe = psutil.Popen(
        [sys.executable, "-c", program],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # the tests may be under nohup
    )
    while not (started := [p for p in recipe.children() if p.name() == "sleep"]):
        time.sleep(0.05)
    recipe.send_signal(number)
    _, said = recipe.communicate()
    assert f"{number.name}: progress is saved" in said
    assert not any(process.is_running() for process in started)


@pytest.mark.parametrize("line", ["prompts: 0", "pairs: 0", "pairs: true", "pairs: many"])
def test_a_number_of_captions_that_cannot_be_is_refused(line, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(f"{line}\n")
    with pytest.raises(UserError, match=rf"{file}: {line.partition(':')[0]}="):
        load(str(file))


@pytest.mark.parametrize("source", ["scenes", "photos"])
def test_the_oracle_judges_scenes_and_nothing_else(source, tmp_path, monkeypatch):
    """The page of any other data claims nothing, and the time is that of the whole recipe."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    called = {}

    def report(name):
        def write(root, finished, **told):
            called[name] = told
            return root / "index.html"

        return write

    monkeypatch.setattr("unclip.runs.recipe.command_of", lambda task: None)  # all is trained
    monkeypatch.setattr("unclip.runs.recipe.Finished.load", lambda folder: folder)
    monkeypatch.setattr("unclip.evaluation.protocols.scenes.report", report("scenes"))
    monkeypatch.setattr("unclip.evaluation.protocols.own_data.report", report("own data"))
    before = time.perf_counter()
    given = [] if source == "scenes" else [f"data.source={source}"]
    run_recipe(Recipe(dir="new", prompts=7), given)
    ((name, told),) = called.items()
    assert name == {"scenes": "scenes", "photos": "own data"}[source]
    assert told["prompts"] == 7
    assert before <= told["began"] <= time.perf_counter()
    if name == "own data":
        assert told["data"].source == "photos"
    else:
        assert (told["pairs"], told["trained"].max_objects) == (16, 2)
