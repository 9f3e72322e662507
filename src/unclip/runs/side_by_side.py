"""Runs commands side by side, each when what it needs has ended, and stops them together."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from unclip.common.errors import UserError
from unclip.common.processes import environment, interruptible, starting, stop
from unclip.common.stage_lines import StageLines


def run_together(
    commands: dict[str, list[str]],
    variables: Mapping[str, str] | None = None,
    *,
    at_once: int | None = None,
    needs: Mapping[str, Sequence[str]] | None = None,
    ended: Callable[[str], None] = lambda name: None,
) -> None:
    """Run named commands at once; when one fails the others are stopped.

    Their environment is this one's with ``variables`` besides. With ``at_once`` so many run at a
    time, and the next begins as one ends: the first whose ``needs``, other commands, have ended.
    ``ended`` is told of each, in the place of a command, before the next one begins.

    Several share the cores of a CPU, but one that no other can run beside has them all; a command
    that ``needs`` names and that is not to run counts too, so that what was interrupted continues
    with as many threads. With several at once their lines begin with their names (`StageLines`);
    else each has the terminal to itself.

    Raises:
        UserError: a command failed (it has said why).
        Interrupted: SIGTERM or SIGHUP came; the commands were passed it, and have ended.
    """
    at_once, needs = at_once or len(commands), needs or {}
    many = min(at_once, len(commands)) > 1
    pipe: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    running: dict[str, subprocess.Popen] = {}
    readers: list[threading.Thread] = []
    waiting = dict(commands)
    shown = StageLines()

    def ready() -> str | None:
        unfinished = {*waiting, *running}
        return next((n for n in waiting if unfinished.isdisjoint(needs.get(n, ()))), None)

    def start(name: str) -> None:
        together = min(at_once, 1 + len(_beside(name, {*commands, *needs}, needs)))
        env = environment(together=together) | dict(variables or {})
        with starting() as prepare:
            running[name] = process = subprocess.Popen(
                waiting.pop(name), env=env, preexec_fn=prepare, **(pipe if many else {})
            )
        if many:
            readers.append(
                threading.Thread(target=shown.read, args=(name, process.stdout), daemon=True)
            )
            readers[-1].start()

    with interruptible(), shown if many else contextlib.nullcontext():
        try:
            while waiting or running:
                while len(running) < at_once and (name := ready()):
                    start(name)
                time.sleep(0.1)
                for name in [n for n, process in running.items() if process.poll() is not None]:
                    if code := running[name].returncode:
                        raise UserError(f"{name}: failed (exit {code}), see above")
                    del running[name]
                    ended(name)
        finally:
            stop(running.values())
            for reader in readers:
                reader.join()


def _beside(name: str, names: Iterable[str], needs: Mapping[str, Sequence[str]]) -> set[str]:
    """Those of ``names`` that ``name`` neither needs nor is needed by."""

    def needed(by: str) -> set[str]:
        direct = set(needs.get(by, ()))
        return direct.union(*map(needed, direct))

    return {
        other for other in names if other not in {name, *needed(name)} and name not in needed(other)
    }
