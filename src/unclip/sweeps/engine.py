"""Runs the trials of a sweep, each in a process of its own, and writes down what comes of them."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from unclip.common.checks import nearest
from unclip.common.errors import Interrupted
from unclip.common.processes import environment, interruptible, starting, stop
from unclip.common.progress import bar_interval
from unclip.common.terminal import visible
from unclip.runs.resume import is_whole
from unclip.sweeps import search
from unclip.sweeps.spec import Sweep
from unclip.sweeps.trials import FAILED, FINISHED, PRUNED, RUNNING, Trial, Trials
from unclip.tracking.files import EXPERIMENT, METRICS, SUMMARY, curves, read_json, read_metrics

SAVED = 75  # the exit status of a run that was told to stop and has saved itself
POLL = 1.0  # seconds between two looks at the trials that run

Command = Callable[[dict[str, Any], Path], list[str]]
"""The program and arguments of a trial, of its parameters and its folder."""


@dataclass
class _Process:
    trial: Trial
    process: subprocess.Popen
    began: float = field(default_factory=time.monotonic)
    told: bool = False  # to stop, as one of the worse of its band
    read: int = 0  # bytes of its metrics that there were when they were read


def run(
    sweep: Sweep, trials: Trials, lock: int, *, count: int, jobs: int, seed: int, command: Command
) -> None:
    """Run until ``count`` trials have ended, including earlier ones.

    Trials that a killed sweep has left running are resumed, by the same command, which must write
    ``metrics.jsonl`` and at the end ``summary.json`` into the folder. ``jobs`` run side by side.
    They inherit ``lock``, as `unclip.sweeps.trials.sweep_lock` gives it.

    Raises:
        Interrupted: SIGTERM came, or a trial was told to stop; what runs has saved itself.
    """
    wanted = min(n for n in (count, sweep.points, sweep.run_cap) if n is not None)
    trials.save()
    work = _Work(sweep, trials, command, environment(together=jobs), lock)
    bar = tqdm(total=wanted, initial=len(trials.ended), unit="trial", mininterval=bar_interval())
    with interruptible(), bar as work.bar:
        try:
            while True:
                work.look()
                while len(work.running) < jobs and work.may_start():
                    trial = work.left() or work.new(wanted, seed)
                    if trial is None:
                        break
                    work.start(trial)
                if not work.running:
                    return
                time.sleep(POLL)
        finally:
            stop(each.process for each in work.running)
            work.put_down()


@dataclass
class _Work:
    """The trials that run now."""

    sweep: Sweep
    trials: Trials
    command: Command
    env: dict[str, str]
    lock: int
    running: list[_Process] = field(default_factory=list)
    bar: Any = None

    def may_start(self) -> bool:
        """Whether another trial may start: not while the first makes what all depend on."""
        alone = len(self.running) == 1 and "--with-parents" in self.sweep.words
        return not alone or (self.trials.path(self.running[0].trial) / "experiment.yaml").exists()

    def left(self) -> Trial | None:
        """A trial that a killed sweep has left."""
        at_work = [each.trial for each in self.running]
        return next((t for t in self.trials.all if t.state == RUNNING and t not in at_work), None)

    def new(self, wanted: int, seed: int) -> Trial | None:
        """The next trial of the search, unless there are enough."""
        sweep, ended = self.sweep, self.trials.ended
        reached = sweep.target is not None and any(
            sweep.lower(t.value) <= sweep.lower(sweep.target)
            for t in ended
            if t.state == FINISHED and t.value is not None
        )
        if reached or len(self.trials.all) >= wanted:
            return None
        trial = search.suggest(sweep, self.trials.all, seed=seed)
        self.trials.all.append(trial)
        self.trials.save()
        return trial

    def start(self, trial: Trial) -> None:
        """Start its process or resume its run; record it if it has already finished."""
        folder = self.trials.path(trial)
        log = self.trials.log(trial)
        log.parent.mkdir(parents=True, exist_ok=True)
        words = self.command(trial.parameters, folder)
        if self._ended(trial):  # ended just before the sweep was killed
            words = [sys.executable, "-c", ""]
        given = ", ".join(f"{k}={_short(v)}" for k, v in trial.parameters.items())
        self._say(trial, given)
        with log.open("a") as output, starting() as prepare:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self.env,
                pass_fds=(self.lock,),
                preexec_fn=prepare,
            )
            self.running.append(_Process(trial, process))

    def look(self) -> None:
        """Take down what has ended, and end the worse ones."""
        ended = [
            each for each in self.running if each.process.poll() is not None
        ]  # once, then read
        for each in ended if self.sweep.early is None else self.running:
            self._read(each)
        histories = [[self.sweep.lower(v) for v in t.history] for t in self.trials.all]
        for each in list(self.running):
            if each in ended:
                self.running.remove(each)
                self._take_down(each)
            elif self.sweep.early is not None and not each.told:
                own = histories[each.trial.number]
                if self.sweep.early.stops(own, histories):
                    each.told = True
                    each.process.terminate()

    def put_down(self) -> None:
        """Note how long those that were stopped have taken."""
        for each in self.running:
            each.trial.seconds += time.monotonic() - each.began
        self.trials.save()

    def _read(self, each: _Process) -> None:
        path = self.trials.path(each.trial) / METRICS
        size = path.stat().st_size if path.is_file() else 0
        if size != each.read:
            rows = curves(read_metrics(path)).get(self.sweep.metric, [])
            each.trial.history, each.read = [value for _, value in rows], size

    def _ended(self, trial: Trial) -> bool:
        """Whether all that it leaves is there; of an evaluation the summary is all."""
        folder = self.trials.path(trial)
        trained = (folder / EXPERIMENT).is_file()
        return self._summary(trial) is not None and (not trained or is_whole(folder))

    def _summary(self, trial: Trial) -> dict[str, float] | None:
        """The last value of each metric of a trial that is through."""
        found = read_json(self.trials.path(trial) / SUMMARY).get("metrics")
        return found if isinstance(found, dict) else None

    def _take_down(self, each: _Process) -> None:
        trial, status = each.trial, each.process.returncode
        trial.seconds += time.monotonic() - each.began
        if status == SAVED and not each.told:
            self.trials.save()
            raise Interrupted(f"trial {trial.number} was stopped; run the same command to resume")
        metrics = self._summary(trial)
        if status == 0 and metrics is not None:
            self._finish(trial, metrics)
        elif each.told:
            trial.state, trial.value = PRUNED, trial.history[-1]
        else:
            trial.state = FAILED
            trial.error = f"{_last_line(self.trials.log(trial))} ({_ending(status)})"
        self.trials.save()
        said = trial.error or f"{self.sweep.metric} {_short(trial.value)}"
        self._say(trial, f"{trial.state} in {trial.seconds:.0f} s, {said}")
        self.bar.update()

    def _finish(self, trial: Trial, metrics: dict[str, float]) -> None:
        name = self.sweep.metric
        if name not in metrics:
            trial.state = FAILED
            trial.error = f"the run has no metric {name}{nearest(name, sorted(metrics))}"
        elif not math.isfinite(metrics[name]):
            trial.state, trial.error = FAILED, f"{name} is {metrics[name]}"
        else:
            trial.state, trial.value = FINISHED, metrics[name]

    def _say(self, trial: Trial, what: str) -> None:
        self.bar.write(visible(f"trial {trial.number}: {what}"), file=sys.stderr)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _last_line(log: Path) -> str:
    """What a program said last; colours and bars left out."""
    with log.open("rb") as file:
        file.seek(max(0, os.path.getsize(log) - 4096))
        text = file.read().decode(errors="replace")
    lines = [line.strip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    return lines[-1] if lines else "said nothing"


def _ending(status: int) -> str:
    if status == -9:
        return "killed, perhaps for want of memory"
    return f"signal {-status}" if status < 0 else f"exit {status}"
