"""Trials as processes: which run, what becomes of them, and that a killed sweep goes on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import drive
import psutil
import pytest
from drive import FAKE, fake, go
from tqdm import tqdm

from unclip.common.errors import Interrupted, UserError
from unclip.sweeps import engine, spec, trials
from unclip.sweeps.trials import FILE

EARLY = {"type": "hyperband", "min_iter": 2}


def states(found):
    return [trial.state for trial in found.all]


def until(holds):
    end = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def stored(folder):
    path = folder / FILE
    return json.loads(path.read_text())["trials"] if path.is_file() else []


def test_a_grid_visits_every_point_once_and_then_ends(sweep_file, tmp_path):
    file = sweep_file(
        method="grid", parameters={"x": {"values": [0, 1]}, "y": {"values": ["a", [1, 2]]}}
    )
    found = go(file, tmp_path / "s", 100)
    points = [(t.parameters["x"], str(t.parameters["y"])) for t in found.all]
    assert sorted(points) == [(x, y) for x in (0, 1) for y in ("[1, 2]", "a")]
    assert states(found) == ["finished"] * 4
    assert [t.value for t in found.all] == [pytest.approx((x - 0.3) ** 2) for x, _ in points]
    assert found.all[0].history == [pytest.approx(found.all[0].value + 3 - k) for k in range(4)]


def test_a_failed_trial_is_recorded_with_its_last_line_and_the_sweep_goes_on(sweep_file, tmp_path):
    file = sweep_file(
        method="grid",
        parameters={"how": {"values": ["badly", "elsewhere", "infinite", "well"]}},
    )
    found = {t.parameters["how"]: t for t in go(file, tmp_path / "s", 4).all}
    assert found["badly"].error == "unclip: error: model.width=3: cannot be (exit 2)"
    assert found["elsewhere"].error == "the run has no metric val/loss; valid: other/loss"
    assert found["infinite"].error == "val/loss is inf"
    assert [t.state for t in found.values()].count("failed") == 3
    assert found["well"].state == "finished"


def test_a_program_that_dies_of_a_signal_says_so(sweep_file, tmp_path):
    def killed(values, folder):
        return [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]

    found = go(sweep_file(), tmp_path / "s", 1, command=killed)
    assert found.all[0].error == "said nothing (killed, perhaps for want of memory)"


def test_the_worse_trial_of_a_band_is_told_to_stop_and_keeps_its_folder(sweep_file, tmp_path):
    file = sweep_file(
        method="grid",
        early_terminate=EARLY,
        parameters={"x": {"values": [0.3, 5.0]}, "sleep": {"value": 0.2}},
    )
    found = go(file, tmp_path / "s", 2, seed=next(s for s in range(9) if first_is_best(s)))
    assert states(found) == ["finished", "pruned"]
    pruned = found.all[1]
    assert pruned.value == pruned.history[-1] > 4.7**2
    assert 2 <= len(pruned.history) < 4
    assert (found.path(pruned) / "metrics.jsonl").is_file()
    assert not (found.path(pruned) / "summary.json").exists()


def first_is_best(seed):
    """Whether the grid of x = 0.3 and 5 begins with the better one."""
    from optuna.samplers import GridSampler

    return GridSampler({"x": ("0.3", "5.0")}, seed=seed)._all_grids[0] == ("0.3",)


def test_it_ends_at_the_target_at_run_cap_and_at_count(sweep_file, tmp_path):
    to = sweep_file("a", metric={"name": "val/loss", "target": 10.0})
    assert len(go(to, tmp_path / "a", 9).all) == 1
    assert len(go(sweep_file("b", run_cap=2), tmp_path / "b", 9).all) == 2
    assert len(go(sweep_file("c"), tmp_path / "c", 3).all) == 3


def test_the_same_again_adds_nothing_and_a_larger_count_adds_the_rest(sweep_file, tmp_path):
    file = sweep_file()
    go(file, tmp_path / "s", 2)
    before = stored(tmp_path / "s")
    go(file, tmp_path / "s", 2)
    assert stored(tmp_path / "s") == before
    go(file, tmp_path / "s", 3)
    assert stored(tmp_path / "s")[:2] == before
    assert len(stored(tmp_path / "s")) == 3


def test_trials_side_by_side_share_the_cores(sweep_file, tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    program = (
        "import os, pathlib, sys, time; print(os.environ.get('OMP_NUM_THREADS')); "
        "folder = pathlib.Path(sys.argv[1]); (folder.parent / f'{folder.name}.begun').touch(); "
        "end = time.monotonic() + 60\n"
        "while len(list(folder.parent.glob('*.begun'))) < 3:\n"
        "    assert time.monotonic() < end; time.sleep(0.02)\n"  # the others never begin
        f"exec(open({str(FAKE)!r}).read())"
    )

    def said(values, folder):
        return [sys.executable, "-c", program, str(folder), json.dumps(values)]

    file = sweep_file(parameters={"x": {"min": 0.0, "max": 1.0}})
    found = go(file, tmp_path / "s", 3, jobs=3, command=said)
    assert states(found) == ["finished"] * 3
    assert [found.log(t).read_text() for t in found.all] == ["2\n"] * 3


def test_others_wait_while_the_first_makes_what_all_lean_on(sweep_file, tmp_path, monkeypatch):
    file = sweep_file(
        command=["unclip", "train", "prior/tiny", "--with-parents", "${args_no_hyphens}"],
        parameters={"x": {"min": 0.0, "max": 1.0}, "sleep": {"value": 0.3}},
    )
    found = go(file, tmp_path / "s", 2, jobs=2)  # fake.py writes no experiment.yaml
    first, second = (found.path(t) for t in found.all)
    assert (second / "starts").stat().st_mtime >= (first / "summary.json").stat().st_mtime


def killed_half_way(file, folder, number):
    """A sweep killed by ``number`` when two trials are through and the third has begun."""
    words = [sys.executable, drive.__file__, str(file), str(folder), "4"]
    folder.mkdir()
    hold = folder / ".hold_0002"  # it does not end before it is killed
    hold.touch()
    sweep = psutil.Popen(
        words,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # no nohup
    )
    begun = folder / "trials" / "0002" / "metrics.jsonl"
    until(lambda: len(stored(folder)) == 3 and begun.is_file())
    sweep.send_signal(number)
    said = sweep.communicate()[1]
    hold.unlink()
    return sweep, said


@pytest.mark.slow
@pytest.mark.parametrize(
    "number",
    [
        signal.SIGKILL,
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
    ],
)
def test_killed_half_way_the_same_command_goes_on_as_if_nothing_had_been(
    sweep_file, tmp_path, number
):
    file, folder = sweep_file(), tmp_path / "s"
    _, said = killed_half_way(file, folder, number)
    assert (f"{number.name}: progress is saved" in said) == (number != signal.SIGKILL)
    assert [t["state"] for t in stored(folder)] == ["finished", "finished", "running"]
    found = go(file, folder, 4)
    whole = go(file, tmp_path / "whole", 4)
    assert [t.parameters for t in found.all] == [t.parameters for t in whole.all]
    assert [t.value for t in found.all] == [t.value for t in whole.all]
    assert [t.history for t in found.all] == [t.history for t in whole.all]
    starts = [len((found.path(t) / "starts").read_text().splitlines()) for t in found.all]
    assert starts == [1, 1, 2, 1]  # the one that ran was continued


def test_a_trial_that_was_through_when_the_sweep_was_killed_is_taken_down(sweep_file, tmp_path):
    file, folder = sweep_file(), tmp_path / "s"
    found = go(file, folder, 2)
    found.all[1].state, found.all[1].value = "running", None
    found.save()
    again = go(file, folder, 2)
    assert again.all[1].value == pytest.approx((again.all[1].parameters["x"] - 0.3) ** 2)
    assert (found.path(found.all[1]) / "starts").read_text() == "started\n"


def test_a_summary_cut_short_is_none(sweep_file, tmp_path):
    file, folder = sweep_file(), tmp_path / "s"
    found = go(file, folder, 1)
    found.all[0].state = "running"
    found.save()
    summary = found.path(found.all[0]) / "summary.json"
    summary.write_text(summary.read_text()[:-3])
    assert go(file, folder, 1).all[0].value == found.all[0].value


def test_a_training_with_a_summary_alone_is_run_to_its_end(sweep_file, tmp_path):
    file, folder = sweep_file(), tmp_path / "s"
    found = go(file, folder, 1)
    found.all[0].state = "running"
    found.save()
    run = found.path(found.all[0])
    (run / "experiment.yaml").write_text("stage: clip\n")  # no artifact
    again = go(file, folder, 1)
    assert states(again) == ["finished"]
    assert (run / "starts").read_text().count("started") == 2


def test_a_trial_that_is_told_to_stop_interrupts_the_sweep(sweep_file, tmp_path):
    def stopped(values, folder):
        return [sys.executable, "-c", "raise SystemExit(75)"]

    with pytest.raises(Interrupted, match="trial 0 was stopped; run the same command to resume"):
        go(sweep_file(), tmp_path / "s", 2, command=stopped)
    assert [t["state"] for t in stored(tmp_path / "s")] == ["running"]
    assert states(go(sweep_file(), tmp_path / "s", 2)) == ["finished", "finished"]


@pytest.mark.parametrize("early", [None, EARLY])
def test_a_trial_that_ends_while_it_is_looked_at_has_its_whole_history(sweep_file, tmp_path, early):
    folder = tmp_path / "s" / "trials" / "0000"

    class EndsAfterOneLook:
        """A process that has written all and is through right after it was asked."""

        returncode = None

        def poll(self):
            before = self.returncode
            if before is None:
                subprocess.run(fake({"x": 0.3}, folder), check=True)
            self.returncode = 0
            return before

    trial = trials.Trial(0, {"x": 0.3}, {}, "trials/0000")
    found = trials.Trials(tmp_path / "s", {}, [trial])
    sweep = spec.load(str(sweep_file(early_terminate=early)))
    work = engine._Work(sweep, found, fake, {}, 0, bar=tqdm(disable=True))
    work.running.append(engine._Process(trial, EndsAfterOneLook()))
    work.look()
    work.look()
    assert (trial.state, trial.history) == ("finished", [3, 2, 1, 0])


def test_a_folder_in_use_is_refused(sweep_file, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(trials, "PATIENCE", 0.3)
    file, folder = sweep_file(), tmp_path / "s"
    go(file, folder, 1)
    with (
        trials.sweep_lock(folder),
        pytest.raises(UserError, match="another sweep, or a trial of one"),
    ):
        go(file, folder, 2)
    assert "waiting for what still runs there" in capfd.readouterr().err
    assert states(go(file, folder, 2)) == ["finished", "finished"]


def test_another_file_or_seed_is_refused_and_so_is_a_damaged_one(sweep_file, tmp_path):
    folder = tmp_path / "s"
    go(sweep_file(), folder, 1)
    with pytest.raises(UserError, match=r"results\.json: was started with another seed"):
        go(sweep_file(), folder, 1, seed=1)
    changed = sweep_file(parameters={"x": {"min": 0.0, "max": 2.0}})
    with pytest.raises(UserError, match=r"was started with another sweep; start over with --force"):
        go(changed, folder, 1)
    (folder / FILE).write_text("{")
    with pytest.raises(UserError, match=r"results\.json: is damaged"):
        go(sweep_file(), folder, 1)


def test_force_starts_anew(sweep_file, tmp_path):
    folder = tmp_path / "s"
    go(sweep_file(), folder, 2)
    found = go(sweep_file(), folder, 1, seed=1, force=True)
    assert [path.name for path in (folder / "trials").iterdir() if path.is_dir()] == ["0000"]
    assert stored(folder)[0]["parameters"] == found.all[0].parameters


def test_it_uses_the_command_it_is_given(sweep_file, tmp_path):
    asked = []

    def noted(values, folder):
        asked.append((values, folder))
        return fake(values, folder)

    found = go(sweep_file(), tmp_path / "s", 2, command=noted)
    assert asked == [(t.parameters, found.path(t)) for t in found.all]
