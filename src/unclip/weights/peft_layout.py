"""An adapter as the library peft writes its own."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from safetensors.torch import save_file

from unclip.common.adapters import A
from unclip.common.errors import UserError
from unclip.common.replacing import put_in_place, require_only
from unclip.weights.merging import read_adapter

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."  # of a network wrapped in peft's PeftModel


def export_peft(adapter: Path, out: Path, *, force: bool = False) -> list[Path]:
    """Write what `PeftModel.from_pretrained` reads; all of it appears, or nothing.

    Args:
        adapter: A run or artifact trained with ``adapter.kind=lora``.
        out: The folder.
        force: Replace an earlier export.

    Raises:
        UserError: it is no adapter, or the folder holds something else.
        OSError: a full disk.
    """
    found, _ = read_adapter(str(adapter))
    settings = found.adapter
    assert settings is not None
    if out.exists() and not force:
        raise UserError(f"--out {out}: exists; name another folder, or --force to replace it")
    if out.exists():
        require_only(out, (CONFIG, WEIGHTS), option="--out ")
    weights = found.weights()
    config = {
        "peft_type": "LORA",
        "r": settings.rank,
        "lora_alpha": settings.scale * settings.rank,
        "lora_dropout": settings.dropout,
        "target_modules": sorted(n.removesuffix(A) for n in weights if n.endswith(A)),
        "bias": "none",
        "inference_mode": True,
        "base_model_name_or_path": None,
        "task_type": None,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as scratch:
        root = Path(scratch) / "adapter"
        root.mkdir()
        save_file({_PREFIX + name: t for name, t in weights.items()}, root / WEIGHTS)
        (root / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        before = Path(scratch) / "before"
        os.mkdir(before)
        put_in_place({out: root}, before)
    return [out / CONFIG, out / WEIGHTS]
