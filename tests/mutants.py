"""Puts plausible bugs into a copy of the code, one at a time: the tests named must see each.

    python tests/mutants.py [--only SUBSTRING] [--jobs N] [--list]

`tests/mutants.toml` says which. The tests that a bug names run as always, without the slow ones
but for those that are named themselves (FILE::TEST). A bug that no test sees fails the command, and
so does one whose text is no longer in its file: then the code has changed, and so must the entry.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ["torch", "lightning", "open_clip", "pytest"]
"""Imported once, before the processes that run the tests are forked off; nothing of our own."""

LEFT_OUT = ("runs", "wandb", "dist", "build")  # of the root; below it these are names of ours
LONGEST = 600.0  # seconds after which a test is taken to hang
KILLED, SURVIVED, UNFIT = "killed", "SURVIVED", "could not apply"


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A plausible bug."""

    name: str  # a sentence: what is wrong now
    file: str
    old: str  # text of the file
    new: str
    tests: list[str]  # files and FILE::TEST, of which one must fail
    count: int = 1  # places where the file has ``old``; all are changed

    def changed(self, root: Path) -> str:
        """The text of the file with the bug. Raises ValueError where it does not fit."""
        path = root / self.file
        if not path.is_file():
            raise ValueError(f"{self.file}: no such file")
        text = path.read_text(encoding="utf-8")
        if (found := text.count(self.old)) != self.count:
            raise ValueError(f"{self.file}: has {self.old!r} {found} times, not {self.count}")
        missing = [test for test in self.tests if not (root / test.partition("::")[0]).is_file()]
        if missing or not self.tests:
            raise ValueError(f"no such tests: {', '.join(missing) or 'none are named'}")
        return text.replace(self.old, self.new)


@dataclass(frozen=True)
class Result:
    """What the tests said of a bug."""

    name: str
    verdict: str
    seconds: float
    why: str  # the test that failed, or what went wrong


def read(path: Path) -> list[Mutant]:
    """The entries of a toml file. Raises ValueError for names that are not unique."""
    found = [Mutant(**entry) for entry in tomllib.loads(path.read_text("utf-8"))["mutant"]]
    names = [mutant.name for mutant in found]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"{path}: more than one is named {', '.join(sorted(twice))}")
    return found


@contextlib.contextmanager
def applied(mutant: Mutant | None, folder: Path) -> Iterator[None]:
    """The bug is in the files of ``folder`` as long as this lasts."""
    if mutant is None:
        yield
        return
    path = folder / mutant.file
    before, after = path.read_text("utf-8"), mutant.changed(folder)
    path.write_text(after, encoding="utf-8")
    try:
        yield
    finally:
        path.write_text(before, encoding="utf-8")


def _pytest(folder: Path, tests: list[str], output: Path) -> None:
    """In a process of its own: run ``tests`` of the copy in ``folder``; exits as pytest does."""
    os.setsid()  # so that all it starts can be ended with it
    os.chdir(folder)
    sink = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    own = [str(folder / "src"), str(folder)]
    os.environ["PYTHONPATH"] = os.pathsep.join(own)
    os.environ.pop("PYTHONWARNINGS", None)
    # Two versions of a file may be of one size and one second: nothing compiled may be kept.
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.dont_write_bytecode = True
    sys.path[:0] = own
    import pytest

    words = ["-x", "-q", "-p", "no:cacheprovider", "--tb=line", *tests]
    # Of modules that HEAVY brings, and of a collection that -x leaves in the middle.
    words += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    words += ["-W", "ignore::pytest.PytestUnraisableExceptionWarning"]
    if all("::" in test for test in tests):
        words += ["-m", ""]
    code = int(pytest.main(words))
    sys.stdout.flush()
    os._exit(code)


def _left_out(root: Path, folder: str, names: list[str]) -> set[str]:
    here = LEFT_OUT if Path(folder) == root else ()
    return {n for n in names if n.startswith(".") or n == "__pycache__" or n in here}


class Workers:
    """Runs tests in copies of the code, as many at a time as there are ``jobs``."""

    def __init__(self, root: Path, jobs: int, scratch: Path, heavy: Sequence[str] = HEAVY):
        # Python would remark on locks (tqdm's) that a process of tests leaves when it is ended.
        os.environ["PYTHONWARNINGS"] = "ignore:resource_tracker"
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(heavy))
        self._scratch = scratch
        self._free = [scratch / f"worker_{k}" for k in range(jobs)]
        for folder in self._free:
            shutil.copytree(root, folder, ignore=partial(_left_out, root))

    def run(self, work: Sequence[tuple[Mutant | None, list[str]]]) -> Iterator[Result]:
        """A result for each of ``work``, as they come."""
        left = list(reversed(work))
        running: dict[int, _Run] = {}
        try:
            while left or running:
                while left and self._free:
                    started = _Run(self._context, self._free.pop(), self._scratch, *left.pop())
                    running[started.process.sentinel] = started
                wait(list(running), timeout=1)
                for sentinel, one in list(running.items()):
                    if one.process.is_alive() and not one.hangs():
                        continue
                    del running[sentinel]
                    yield one.end()
                    self._free.append(one.folder)
        finally:
            for one in running.values():
                one.end()
                self._free.append(one.folder)


class _Run:
    def __init__(
        self,
        context: multiprocessing.context.ForkServerContext,
        folder: Path,
        scratch: Path,
        mutant: Mutant | None,
        tests: list[str],
    ):
        self.folder, self.name = folder, mutant.name if mutant else " ".join(tests)
        self._output = scratch / f"{folder.name}.txt"
        self._began = time.monotonic()
        self._change = applied(mutant, folder)
        self._change.__enter__()
        self.process = context.Process(target=_pytest, args=(folder, tests, self._output))
        self.process.start()

    def _seconds(self) -> float:
        return time.monotonic() - self._began

    def hangs(self) -> bool:
        return self._seconds() > LONGEST

    def end(self) -> Result:
        """What came of it; what is still running is stopped."""
        hung = self.process.is_alive()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid or 0, signal.SIGKILL)
        if hung:
            self.process.kill()
        self.process.join()
        self._change.__exit__(None, None, None)
        said = self._output.read_text(errors="replace").splitlines() if not hung else []
        code = self.process.exitcode
        if hung:
            return Result(self.name, KILLED, self._seconds(), f"hung for {LONGEST:.0f} s")
        if code == 0:
            return Result(self.name, SURVIVED, self._seconds(), "")
        failed = [line for line in said if line.startswith(("FAILED ", "ERROR "))]
        why = failed[0].partition(" - ")[0] if failed else "\n".join(said[-5:])
        if code == 1 and failed:
            return Result(self.name, KILLED, self._seconds(), why.removeprefix("FAILED "))
        return Result(self.name, UNFIT, self._seconds(), f"pytest exits with {code}: {why}")


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def check(
    mutants: list[Mutant],
    *,
    root: Path,
    jobs: int,
    console: Console,
    heavy: Sequence[str] = HEAVY,
) -> bool:
    """Whether the tests see all of ``mutants``; prints a line for each."""
    began, unfit = time.monotonic(), []
    for mutant in mutants:
        try:
            mutant.changed(root)
        except ValueError as error:
            unfit.append(Result(mutant.name, UNFIT, 0.0, str(error)))
    bad = {result.name for result in unfit}
    fit = [mutant for mutant in mutants if mutant.name not in bad]
    results = list(unfit)
    for result in unfit:
        _say(console, result)
    # Tests that fail by themselves would seem to see everything.
    union = sorted({test for mutant in fit for test in mutant.tests})
    files = {test for test in union if "::" not in test}
    union = [test for test in union if test in files or test.partition("::")[0] not in files]
    plain: list[tuple[Mutant | None, list[str]]] = [(None, [test]) for test in union]
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch, _progress(console) as progress:
        workers = Workers(root, jobs, Path(scratch), heavy)
        task = progress.add_task("without bugs", total=len(plain))
        for result in workers.run(plain):
            progress.advance(task)
            if result.verdict != SURVIVED:
                console.print(f"without a bug, fails: {result.why or result.name}", markup=False)
                return False
        if plain:
            console.print(
                f"{len(plain)} test files pass without bugs, {time.monotonic() - began:.0f} s"
            )
        task = progress.add_task("with one each", total=len(fit))
        for result in workers.run([(mutant, mutant.tests) for mutant in fit]):
            progress.advance(task)
            results.append(result)
            _say(console, result)
    counts = {v: sum(r.verdict == v for r in results) for v in (KILLED, SURVIVED, UNFIT)}
    summary = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    console.print(f"{len(mutants)} mutants: {summary}, {time.monotonic() - began:.0f} s")
    return counts[KILLED] == len(mutants)


def _say(console: Console, result: Result) -> None:
    line = f"{result.verdict:>8} {result.seconds:5.1f} s  {result.name}"
    console.print(line, markup=False, highlight=False, soft_wrap=True)
    if result.why:
        how = None if result.verdict != KILLED else "dim"
        console.print(
            f"{'':18}{result.why}", markup=False, highlight=False, style=how, soft_wrap=True
        )


def main(words: Sequence[str] | None = None) -> int:
    """The command line; 0 where every bug is seen."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", metavar="SUBSTRING", help="of the name or the file")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="at a time (default: 2)")
    parser.add_argument("--list", action="store_true", help="print the bugs and stop")
    given = parser.parse_args(words)
    console = Console()
    mutants = read(ROOT / "tests" / "mutants.toml")
    mutants = [m for m in mutants if given.only in m.name or given.only in m.file]
    if given.list:
        for mutant in mutants:
            console.print(f"{mutant.file}: {mutant.name}", markup=False, soft_wrap=True)
        return 0
    if not mutants:
        console.print(f"--only {given.only}: no mutant has that in its name or file")
        return 1
    try:
        done = check(mutants, root=ROOT, jobs=max(1, given.jobs), console=console)
    except KeyboardInterrupt:
        console.print("interrupted; the copies are gone")
        return 130
    return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main())
