"""Trains runs one after another; started by torchrun (or alone) as `several.py JOBS.json`.

A job: {"experiment": path, "overrides": [...], "resume": bool}.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch


def main() -> None:
    from unclip.config.load import load_experiment
    from unclip.runs.train import train

    torch.set_num_threads(1)
    for job in json.loads(Path(sys.argv[1]).read_text()):
        resolved = load_experiment(job["experiment"], job["overrides"])
        try:
            train(resolved, resume=job.get("resume", False))
        except SystemExit:  # of all processes but the first
            continue


if __name__ == "__main__":
    main()
