"""What torch finds on this machine, as JSON: run by `unclip doctor` in a process of its own.

A damaged torch or driver can end or hang the process that imports it; this one may.
"""

from __future__ import annotations

import json
from typing import Any

from unclip.common.terminal import say


def found() -> dict[str, Any]:
    """Threads and GPUs; with every GPU a small product is computed."""
    import lightning
    import open_clip
    import torch
    import torchvision

    modules = (torch, torchvision, lightning, open_clip)
    gpus = []
    for k in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(k)
        gpu = {
            "name": properties.name,
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "capability": f"{properties.major}.{properties.minor}",
            "bfloat16": torch.cuda.is_bf16_supported(including_emulation=False),
        }
        try:
            one = torch.ones(64, 64, device=f"cuda:{k}")
            gpu["computes"] = bool((one @ one == 64).all())
        except RuntimeError as error:
            gpu["computes"] = False
            gpu["error"] = str(error).splitlines()[0]
        gpus.append(gpu)
    return {
        "imported": {module.__name__: module.__version__ for module in modules},
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "gpus": gpus,
        "mps": torch.backends.mps.is_available(),
    }


if __name__ == "__main__":
    say("\n" + json.dumps(found()), lines=True)
