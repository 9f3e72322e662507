"""An adapter as the library peft writes its own."""

from __future__ import annotations

import json
import os
from pathlib import Path

from safetensors.torch import save_file

from unclip.common.errors import UserError
from unclip.common.inputs import require_apart
from unclip.common.merging import pairs
from unclip.common.replacing import put_in_place, require_only
from unclip.common.scratch import scratch_folder
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
        UserError: it is not an adapter, or the folder holds something else.
        OSError: a full disk.
    """
    found, _ = read_adapter(str(adapter))
    settings = found.adapter
    assert settings is not None
    require_apart(out, [found.path], option="--out ")
    if out.exists() and not force:
        raise UserError(f"--out {out}: exists; name another folder, or --force to replace it")
    if out.exists():
        require_only(out, (CONFIG, WEIGHTS), option="--out ")
    weights = found.weights()
    try:
        layers = pairs(weights)
    except ValueError as error:
        raise UserError(f"{found.path / 'weights.safetensors'}: {error}") from None
    config = {
        "peft_type": "LORA",
        "r": settings.rank,
        "lora_alpha": settings.scale * settings.rank,
        "lora_dropout": settings.dropout,
        "target_modules": sorted(layers),
        "bias": "none",
        "inference_mode": True,
        "base_model_name_or_path": None,
        "task_type": None,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(out.parent, ".export-") as scratch:
        root = scratch / "adapter"
        root.mkdir()
        save_file({_PREFIX + name: t for name, t in weights.items()}, root / WEIGHTS)
        (root / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        before = scratch / "before"
        os.mkdir(before)
        put_in_place({out: root}, before)
    return [out / CONFIG, out / WEIGHTS]
