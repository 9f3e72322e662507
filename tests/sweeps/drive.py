"""Sweeps whose trials are ``fake.py``, in this process or (SWEEP DIR COUNT) in one to be killed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from unclip.sweeps import engine, spec, trials

FAKE = Path(__file__).with_name("fake.py")
engine.POLL = 0.02


def fake(values, folder):
    return [sys.executable, "-S", str(FAKE), str(folder), json.dumps(values)]


def go(file, folder, count, *, jobs=1, seed=0, command=fake, force=False):
    sweep = spec.load(str(file))
    with trials.sweep_lock(Path(folder), force=force) as lock:
        found = trials.opened(Path(folder), {"sweep": sweep.content, "seed": seed})
        engine.run(sweep, found, lock, count=count, jobs=jobs, seed=seed, command=command)
    return found


if __name__ == "__main__":
    go(sys.argv[1], sys.argv[2], int(sys.argv[3]))
