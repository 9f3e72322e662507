"""Where runs live: the folder of a new run, of one to continue, of a finished one."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from unclip.common import yaml_text
from unclip.common.atomic import atomic_write
from unclip.common.errors import UserError
from unclip.common.inputs import require_apart
from unclip.config.files import find_experiment
from unclip.config.load import ResolvedExperiment
from unclip.runs import own
from unclip.runs.inputs import inputs_of, newest_artifact
from unclip.tracking import log, provenance, status
from unclip.tracking.files import EXPERIMENT
from unclip.training.checkpoint_folders import newest_checkpoint
from unclip.training.strategies import processes_started, rank_started

_FOLDER = "UNCLIP_RUN_FOLDER"


def shared_folder(resolved: ResolvedExperiment) -> Path | None:
    """The run's folder in a process that trains along; None in the first, which chooses it.

    Raises:
        UserError: torchrun or srun started the processes, and no ``run.dir`` tells them where.
    """
    if processes_started() is None:
        along = (
            int(os.environ.get("LOCAL_RANK", 0)) > 0
        )  # spawned by Lightning with the same arguments
        return Path(os.environ[_FOLDER]) if along else None
    if not resolved.config.run.dir:
        raise UserError(
            "run.dir: name the run's folder (run.dir=runs/mine); processes that torchrun or srun "
            "started cannot agree on one"
        )
    return Path(resolved.config.run.dir) if rank_started() > 0 else None


@contextmanager
def shared(folder: Path) -> Iterator[None]:
    """Tell the processes that Lightning starts meanwhile."""
    os.environ[_FOLDER] = str(folder)
    try:
        yield
    finally:
        os.environ.pop(_FOLDER, None)


class Start(NamedTuple):
    """How a run begins."""

    resume: bool
    force: bool


def where_it_stopped(resolved: ResolvedExperiment) -> Start:
    """Continue ``run.dir`` where it has a checkpoint, else start it, whatever died there before.

    Raises:
        UserError: there is no ``run.dir``.
    """
    if not resolved.config.run.dir:
        raise UserError("--continue: name the run's folder (run.dir=runs/mine)")
    folder = Path(resolved.config.run.dir)
    resume = newest_checkpoint(folder) is not None
    return Start(resume, force=not resume and (folder / EXPERIMENT).is_file())


class RunFolder:
    """The folder of a run that this process has for itself."""

    def __init__(self, folder: Path, held: status.RunLock, *, resume: bool):
        self.folder = folder
        self.resume = resume
        self._held = held

    @contextmanager
    def start(
        self, resolved: ResolvedExperiment, origin: dict[str, Any], **noted: Any
    ) -> Iterator[None]:
        """From here on the run is the new one: what was there goes, unless it is continued.

        ``origin`` is what `unclip.tracking.provenance.collect` has found, ``noted`` what else there
        is to say of a resume.
        While it lasts, what is printed goes to ``log.txt`` too.
        """
        if not self.resume:
            _empty(self.folder)
        self._held.begin()
        config = resolved.as_dict()
        text = yaml_text.document(config)
        with atomic_write(self.folder / EXPERIMENT) as scratch:
            scratch.write_text(text)
        mark = own.mark(config)
        if self.resume:
            provenance.resume(self.folder, origin, noted, mark)
        else:
            provenance.begin(self.folder, origin | mark)
        with log.tee_log(self.folder, origin["command"]):
            yield


@contextmanager
def acquire_run(
    resolved: ResolvedExperiment, *, resume: Path | None = None, force: bool = False
) -> Iterator[RunFolder]:
    """Take the folder of a new run, or ``resume``, that of one to continue, while the block lasts.

    Nothing in it is touched before the run has begun; of a run that never begins nothing is left.

    Raises:
        UserError: it is in use, by another run or by something else.
    """
    made: list[Path] = []
    folder = resume or _new(resolved, made)
    try:
        with status.run_lock(folder) as held:
            if not resume:
                _refuse_used(folder, force=force, trains=resolved.stage.trains)
                if force:
                    require_apart(folder, inputs_of(resolved), option="run.dir=")
            yield RunFolder(folder, held, resume=resume is not None)
    finally:
        with contextlib.suppress(OSError):  # not empty: the run has begun, or another is here
            for path in made:
                path.rmdir()


def folder_to_resume(resolved: ResolvedExperiment) -> Path:
    """``run.dir``, the folder that holds the experiment's file, or the newest with a checkpoint.

    Raises:
        UserError: there is no checkpoint in it.
    """
    run = resolved.config.run
    home, beside = Path(run.root) / resolved.name, resolved.files[0]
    if run.dir:
        found = [Path(run.dir)]
    elif beside.name == EXPERIMENT and newest_checkpoint(beside.parent):
        found = [beside.parent]
    else:
        found = sorted(p for p in home.glob("*") if newest_checkpoint(p))[-1:]
    if found and newest_checkpoint(found[0]):
        return found[0]
    where = run.dir or home
    if found and (found[0] / EXPERIMENT).is_file():
        raise UserError(
            f"--resume: {where} holds a run without a checkpoint; start it over with --force"
        )
    elsewhere = "" if run.dir else ", or name its folder (run.dir=FOLDER)"
    raise UserError(
        f"--resume: no checkpoint in {where}; start the run without --resume{elsewhere}"
    )


def _new(resolved: ResolvedExperiment, made: list[Path]) -> Path:
    """``run.dir``, or a folder of a name that no other run has.

    ``made`` gets the folders that did not exist, the innermost first.
    """
    run = resolved.config.run
    home = Path(run.root) / resolved.name
    while True:
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        folder = Path(run.dir) if run.dir else home / f"{stamp}-{secrets.token_hex(2)}"
        made[:] = [path for path in (folder, *folder.parents) if not path.exists()]
        try:
            folder.mkdir(parents=True, exist_ok=bool(run.dir))
        except FileExistsError:
            if not run.dir:
                continue  # of a run that was started in the same second
            raise UserError(f"run.dir={folder}: is a file; name a folder") from None
        except OSError as error:
            raise UserError(f"run.dir={folder}: cannot be made: {error.strerror}") from None
        return folder


def _contents(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name != status.FILE]


def _refuse_used(folder: Path, *, force: bool, trains: bool) -> None:
    if not _contents(folder):
        return
    if not (folder / EXPERIMENT).is_file():
        raise UserError(
            f"run.dir={folder}: is not empty and holds no run (--force replaces runs only); name "
            "another folder"
        )
    if force:
        return
    if not trains:
        raise UserError(f"run.dir={folder}: holds a run; name another folder, or add --force")
    if newest_checkpoint(folder):
        raise UserError(
            f"run.dir={folder}: exists and is not empty; add --resume to continue it or "
            "--force to start over"
        )
    raise UserError(
        f"run.dir={folder}: holds a run without a checkpoint; add --force to start it over"
    )


def _empty(folder: Path) -> None:
    """Remove what another run has left, but not the file by which this one holds the folder."""
    for path in _contents(folder):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def trained(name: str) -> Path:
    """The folder of an artifact or run, or the newest artifact of the experiment ``name``."""
    if Path(name).is_dir():
        return Path(name)
    find_experiment(name)
    found = newest_artifact(name)
    if found is None:
        raise UserError(f"{name}: no finished run in {Path('runs') / name}; train it first")
    return found
