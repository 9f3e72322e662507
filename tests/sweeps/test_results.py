"""The table, the best run by name, and the image."""

from __future__ import annotations

import csv
import json
import shlex

import pytest
from PIL import Image

from unclip.common.errors import UserError
from unclip.config.load import load_experiment
from unclip.sweeps import figure, results, spec
from unclip.sweeps.trials import FAILED, FINISHED, PRUNED, RUNNING, Trial, Trials

PARAMETERS = {
    "optim.lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2},
    "optim.name": {"values": ["adamw", "muon"]},
    "optim.weight_decay": {"value": 0.5},
}
ROWS = [  # lr, name, state, value
    (1.23456789e-3, "adamw", FINISHED, 0.5),
    (1e-4, "muon", FINISHED, 0.25),
    (1e-2, "muon", PRUNED, 0.1),
    (2e-3, "adamw", FAILED, None),
    (5e-3, "adamw", FINISHED, 0.75),
]


@pytest.fixture
def sweep(sweep_file):
    return spec.load(str(sweep_file(parameters=PARAMETERS)))


def trials(folder, rows):
    found = Trials(folder, {"sweep": {}, "seed": 0})
    for k, (lr, name, state, value) in enumerate(rows):
        given = {"optim.lr": lr, "optim.name": name, "optim.weight_decay": 0.5}
        trial = Trial(k, given, {}, f"trials/{k:04d}", state=state, value=value, seconds=3.4)
        trial.error = "the reason (exit 2)" if state == FAILED else None
        found.all.append(trial)
    return found


def test_the_table_ranks_what_finished_and_names_the_best(sweep, tmp_path, capsys):
    found = trials(tmp_path, ROWS)
    results.report(sweep, found, ["trainer.max_steps=9"])
    with (tmp_path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["trial"] for row in rows] == ["1", "0", "4", "2", "3"]
    assert [row["rank"] for row in rows] == ["1", "2", "3", "", ""]
    assert rows[1]["optim.lr"] == "0.00123456789"
    assert rows[0]["optim.weight_decay"] == "0.5"
    assert rows[3]["status"] == "pruned"
    assert rows[4]["status"] == "failed: the reason (exit 2)"
    assert rows[0]["folder"] == str(tmp_path / "trials" / "0001")
    said = capsys.readouterr().out
    assert "best: trial 1, val/loss 0.25" in said
    line = next(line for line in said.splitlines() if line.startswith("  unclip train"))
    _, _, name, *overrides = shlex.split(line)
    best = load_experiment(name, overrides).config
    assert (best.optim.lr, best.optim.name, best.trainer.max_steps) == (1e-4, "muon", 9)
    assert best.run.dir is None
    assert said.splitlines()[-1] == str(tmp_path / "sweep.png")


def test_the_file_that_a_sweep_goes_on_from_holds_everything(sweep, tmp_path):
    found = trials(tmp_path, ROWS)
    found.save()
    stored = json.loads((tmp_path / "results.json").read_text())
    assert [Trial(**each) for each in stored["trials"]] == found.all
    assert [path.name for path in tmp_path.glob("*.json*")] == ["results.json"]


def test_where_higher_is_better_the_highest_comes_first(sweep_file, tmp_path):
    metric = {"name": "val/loss", "goal": "maximize"}
    sweep = spec.load(str(sweep_file(parameters=PARAMETERS, metric=metric)))
    assert [t.number for t in results.ranked(sweep, trials(tmp_path, ROWS))] == [4, 0, 1, 2, 3]


def test_when_all_failed_it_says_so_and_where_to_look(sweep, tmp_path):
    with pytest.raises(UserError, match=r"2 trials, none of which finished; .*trials/0000\.log"):
        results.report(sweep, trials(tmp_path, [ROWS[3]] * 2), [])


def test_when_none_finished_there_is_no_best(sweep, tmp_path, capsys):
    results.report(sweep, trials(tmp_path, [ROWS[2], ROWS[3]]), [])
    assert "best" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "rows", [ROWS, ROWS[:1], [ROWS[3]], [(1e-3, "muon", RUNNING, None)], ROWS * 8]
)
def test_a_image_of_any_trials(sweep, tmp_path, rows):
    ranked = results.ranked(sweep, trials(tmp_path, rows))
    path = figure.draw(sweep, ranked, tmp_path / "sweep.png")
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.width > image.height > 400
    assert [p.name for p in tmp_path.glob("*png*")] == ["sweep.png"]


def test_an_axis_runs_from_the_lowest_to_the_highest_value_as_its_distribution_does(sweep):
    lr, name = (figure._axis(p) for p in sweep.searched)
    assert [lr.place(v) for v in (1e-4, 1e-3, 1e-2)] == pytest.approx([0, 0.5, 1])
    assert [text for _, text in lr.ticks()][:3] == ["0.0001", "0.0002", "0.0005"]
    assert [name.place(word) for word in ("adamw", "muon")] == [0.25, 0.75]
    only = figure._Axis("m", [0.4])
    assert only.place(0.4) == pytest.approx(0.5)


def test_a_line_goes_through_its_values_and_stays_between_them():
    x, y = figure._curve([0.2, 0.9, 0.1])
    assert [float(y[abs(x - k).argmin()]) for k in range(3)] == pytest.approx([0.2, 0.9, 0.1])
    assert y.min() >= 0.1 - 1e-9
    assert y.max() <= 0.9 + 1e-9
