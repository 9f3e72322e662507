"""How the images in a folder of `unclip sample --devices` were made, from its manifest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from unclip.common.errors import UserError
from unclip.common.home import expanded
from unclip.data import files
from unclip.data.shard_folder import MANIFEST

STAGES = ("prior", "decoder", "upsamplers")


def sampling_of(spec: str) -> dict[str, str]:
    """Guidance, steps, seeds, other settings and precision; empty for other images.

    Raises:
        UserError: the manifest is damaged.
    """
    if files.is_url(spec) or not (file := expanded(spec) / MANIFEST).is_file():
        return {}
    try:
        manifest = json.loads(file.read_text())
        return sampling_in(manifest) if "cascade" in manifest else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{file}: is damaged; run the same `unclip sample` again") from None


def sampling_in(manifest: Mapping[str, Any]) -> dict[str, str]:
    """The same, of a manifest: fields of `Conditions`."""
    settings = manifest["settings"]
    first, last = settings["seed"], settings["seed"] + manifest["images"] - 1
    told = {
        "guidance": _each(settings, "guidance"),
        "steps": _each(settings, "steps"),
        "samplers": _others(settings),
        "seeds": f"{first}-{last}",
        "sampled_in": str(settings["precision"]),
    }
    return {name: value for name, value in told.items() if value}


def _stages(settings: Mapping[str, Any], stage: str) -> list[dict[str, Any]]:
    one = settings[stage]
    return one if isinstance(one, list) else [one] if one else []


def _each(settings: Mapping[str, Any], name: str) -> str:
    """``name`` of every stage that has it: "prior 64, decoder 250, upsamplers 27, 15"."""
    parts = []
    for stage in STAGES:
        values = [str(one[name]) for one in _stages(settings, stage) if one.get(name) is not None]
        parts += [f"{stage} {', '.join(values)}"] if values else []
    return ", ".join(parts)


def _others(settings: Mapping[str, Any]) -> str:
    """All further settings of each stage."""
    parts = []
    for stage in STAGES:
        for one in _stages(settings, stage):
            rest = {k: v for k, v in one.items() if k not in ("guidance", "steps")}
            words = (f"{name}={value}" for name, value in rest.items() if value is not None)
            parts.append(f"{stage} {' '.join(words)}")
    return "; ".join(parts)
