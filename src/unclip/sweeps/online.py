"""A sweep whose trials are chosen by Weights & Biases, for one machine or many."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from unclip.common.errors import UserError
from unclip.common.terminal import say
from unclip.tracking.connection import first_line, why_offline

ON = "tracking.wandb=true"


def create(spec: dict[str, Any], *, project: str | None = None, entity: str | None = None) -> str:
    """Make a sweep of ``spec`` (W&B's own format) and print the line that joins more machines.

    Its trials log to W&B, whatever ``spec``'s command says of that.

    Returns:
        ENTITY/PROJECT/ID, for `run_agent`.

    Raises:
        UserError: W&B cannot be reached, has no key, or refuses ``spec``.
    """
    import wandb

    if why := why_offline():
        raise UserError(f"W&B: {why}; or sweep without it: it is not needed")
    command = [*spec["command"], *([] if ON in spec["command"] else [ON])]
    try:
        name = wandb.sweep({**spec, "command": command}, entity=entity, project=project)
        settings = wandb.Api().settings  # of the sweep: what was not given is the account's own
    except Exception as error:  # the client has many kinds, and passes on the server's words
        raise UserError(f"W&B: {first_line(error)}") from None
    path = f"{settings['entity']}/{settings['project']}/{name}"
    say(f"another machine joins by: wandb agent {path}")
    return path


def run_agent(sweep: str, count: int | None = None) -> None:
    """Run trials of ``sweep`` (ENTITY/PROJECT/ID) here until it, or ``count``, is done.

    Ctrl-C and SIGTERM are passed on to the trial, which saves itself.
    """
    import wandb

    # The command's `python` is to be this one, in an environment that is not activated too.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    wandb.agent(sweep, count=count, forward_signals=True)
