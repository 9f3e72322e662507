"""Which of a machine's processes this is."""

from __future__ import annotations

import os


def local_rank() -> int:
    """As torchrun, Lightning or srun says, in this order; 0 where nobody does."""
    for name in ("LOCAL_RANK", "SLURM_LOCALID"):
        if os.environ.get(name, "").isdecimal():
            return int(os.environ[name])
    return 0
