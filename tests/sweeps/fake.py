"""Stands for `unclip train`: writes what a run writes, in milliseconds. FOLDER JSON."""

import json
import signal
import sys
import time
from pathlib import Path

folder, values = Path(sys.argv[1]), json.loads(sys.argv[2])
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
folder.mkdir(parents=True, exist_ok=True)
with (folder / "starts").open("a") as file:
    file.write("started\n")
how = values.get("how", "well")
if how == "badly":
    print("a line before")
    print("unclip: error: model.width=3: cannot be")
    sys.exit(2)
metrics = folder / "metrics.jsonl"
before = len(metrics.read_text().splitlines()) if metrics.exists() else 0
loss = (values.get("x", 0.5) - 0.3) ** 2
for step in range(before, 4):
    with metrics.open("a") as file:
        file.write(json.dumps({"step": step, "time": 0.0, "val/loss": loss + 3 - step}) + "\n")
    time.sleep(values.get("sleep", 0))
    while (folder.parents[1] / f".hold_{folder.name}").exists():
        time.sleep(0.01)
found = {"other/loss": 1.0} if how == "elsewhere" else {"val/loss": loss}
if how == "infinite":
    found = {"val/loss": float("inf")}
(folder / "summary.json").write_text(json.dumps({"metrics": found}))
