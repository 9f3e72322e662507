"""What lies in the memory of each process when a stage is built, sharded and exported.

Started by torchrun as `memory_of_processes.py EXPERIMENT OUT KEY=VALUE...`; every process writes
``OUT/RANK.json`` with numbers of elements.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor

from unclip.config.load import load_experiment
from unclip.runs import train as module
from unclip.training.checkpoint_rows import local
from unclip.training.stage import Stage


def held(net) -> int:
    """Elements of weights that have memory here."""
    return sum(local(p).numel() for p in net.parameters() if not local(p).is_meta)


def main() -> None:
    """Train, and note what was held."""
    path, out, *given = sys.argv[1:]
    torch.set_num_threads(1)
    noted: dict[str, object] = {}
    configure, weights = Stage.configure_model, Stage.weights

    def configured(stage: Stage) -> None:
        assert stage.ema is not None
        if noted:  # called again to validate
            configure(stage)
            return
        noted["built"] = {"net": held(stage.net), "ema": held(stage.ema)}
        before = {name: p.detach().clone() for name, p in stage.net.named_parameters()}
        configure(stage)
        noted["whole"] = sum(p.numel() for p in before.values())
        noted["sharded"] = {"net": held(stage.net), "ema": held(stage.ema)}
        average = dict(stage.ema.named_parameters())
        values = {name: average[name].full_tensor() for name in before}  # type: ignore[attr-defined]
        noted["sum"] = float(sum(value.double().sum() for value in values.values()))
        noted["same"] = torch.distributed.get_rank() > 0 or all(
            torch.equal(values[name], value) for name, value in before.items()
        )
        noted["trains"] = any(p.requires_grad for p in average.values()) or stage.ema.training

    def exported(stage: Stage) -> dict[str, torch.Tensor]:
        found = weights(stage)
        noted["exported"] = sum(t.numel() for t in found.values() if not isinstance(t, DTensor))
        return found

    Stage.configure_model, Stage.weights = configured, exported  # type: ignore[method-assign]
    with contextlib.suppress(SystemExit):  # of all processes but the first
        module.train(load_experiment(path, given))
    rank = torch.distributed.get_rank()
    Path(out, f"{rank}.json").write_text(json.dumps(noted))


if __name__ == "__main__":
    main()
