"""Where runs live: the folder of a new run, of one to continue, of a finished one."""

from __future__ import annotations

import dataclasses
import os
import secrets
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from unclip import config, registry
from unclip.training.checkpoints import newest_checkpoint
from unclip.training.strategies import processes_started, rank_started
from unclip.types import UserError

_FOLDER = "UNCLIP_RUN_FOLDER"


def shared_folder(resolved: config.Resolved) -> Path | None:
    """The run's folder in a process that trains along; None in the first, which chooses it.

    Raises:
        UserError: torchrun or srun started the processes, and no ``run.dir`` tells them where.
    """
    if processes_started() is None:
        along = int(os.environ.get("LOCAL_RANK", 0)) > 0  # started by Lightning, by the same words
        return Path(os.environ[_FOLDER]) if along else None
    if not resolved.config.run.dir:
        raise UserError(
            "run.dir: name the run's folder (run.dir=runs/mine); processes that torchrun or srun "
            "started cannot agree on one"
        )
    return Path(resolved.config.run.dir) if rank_started() > 0 else None


def share(folder: Path) -> None:
    """Tell the processes that Lightning will start."""
    os.environ[_FOLDER] = str(folder)


def unshare() -> None:
    """They are gone."""
    os.environ.pop(_FOLDER, None)


class Start(NamedTuple):
    """How a run begins."""

    resume: bool
    force: bool


def where_it_stopped(resolved: config.Resolved) -> Start:
    """Continue ``run.dir`` where it has a checkpoint, else start it, whatever died there before.

    Raises:
        UserError: there is no ``run.dir``.
    """
    if not resolved.config.run.dir:
        raise UserError("--continue: name the run's folder (run.dir=runs/mine)")
    folder = Path(resolved.config.run.dir)
    resume = newest_checkpoint(folder) is not None
    return Start(resume, force=not resume and (folder / "experiment.yaml").is_file())


def run_folder(resolved: config.Resolved, *, resume: bool, force: bool) -> Path:
    """The folder of a new run, or of the one to continue; never one that is in use by another."""
    run = resolved.config.run
    home = Path(run.root) / resolved.name
    if resume:
        if run.dir:
            found = [Path(run.dir)]
        else:
            found = sorted(p for p in home.glob("*") if newest_checkpoint(p))[-1:]
        if not found or not newest_checkpoint(found[0]):
            where = run.dir or home
            raise UserError(f"--resume: no checkpoint in {where}; start the run without --resume")
        return found[0]
    if run.dir:
        folder = Path(run.dir)
        if folder.is_dir() and any(folder.iterdir()):
            if not force:
                raise UserError(
                    f"run.dir={folder}: exists and is not empty; add --resume to continue it or "
                    "--force to start anew"
                )
            if not (folder / "experiment.yaml").is_file():
                raise UserError(f"run.dir={folder}: --force replaces runs only, this is none")
            shutil.rmtree(folder)
    else:
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        folder = home / f"{stamp}-{secrets.token_hex(2)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"run.dir={folder}: cannot be made: {error.strerror}") from None
    return folder


def write_experiment(folder: Path, resolved: config.Resolved) -> None:
    """``experiment.yaml``, with every field."""
    text = yaml.safe_dump(resolved.as_dict(), sort_keys=False)
    (folder / "experiment.yaml").write_text(text)


def same_model(folder: Path, experiment: Any) -> None:
    """A run can be continued longer or elsewhere, but not as another model."""
    before = config.read_yaml(folder / "experiment.yaml")
    now = dataclasses.asdict(experiment)
    for section in ("stage", "model", "diffusion"):
        if before.get(section) != now.get(section):
            raise UserError(
                f"--resume: {section} differs from {folder / 'experiment.yaml'}; "
                "a run continues with the model it was started with"
            )


def newest_artifact(name: str, root: str = "runs") -> Path | None:
    """The artifact of the newest finished run of the experiment ``name``."""
    found = sorted((Path(root) / name).glob("*/artifact/artifact.json"))
    return found[-1].parent if found else None


def trained(name: str) -> Path:
    """The folder of an artifact or run, or the newest artifact of the experiment ``name``."""
    if Path(name).is_dir():
        return Path(name)
    registry.find(name)
    found = newest_artifact(name)
    if found is None:
        raise UserError(f"{name}: no finished run in {Path('runs') / name}; train it first")
    return found
