"""A recipe trains a whole cascade, stage after stage, and shows what it can do.

A recipe is a YAML file in ``experiments/recipes``: which experiment of each kind, with which
overrides, and how many held-out captions to draw at the end.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unclip import artifacts, config, registry
from unclip.runs import train
from unclip.tracking.report import Finished
from unclip.training.trainer import newest_checkpoint
from unclip.types import UserError


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The fields of a recipe file."""

    about: str = ""
    dir: str = "runs/quickstart"  # every stage's run is a folder in it
    clip: str = "clip/tiny"  # experiment
    prior: str = "prior/tiny"
    decoder: str = "decoder/tiny"
    upsamplers: list[str] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)  # key=value for every stage
    prompts: int = 64  # held-out single-object captions that are drawn and read by the oracle


def load(name: str) -> Recipe:
    """The recipe called ``name``, or at a path; unknown keys are refused."""
    path = registry.find(name if "/" in name or name.endswith(".yaml") else f"recipes/{name}")
    content = config.read_yaml(path)
    known = Recipe.__dataclass_fields__
    for key, value in content.items():
        if key not in known:
            raise UserError(f"{path}: {key}: unknown key{registry.nearest(key, known)}")
        wanted = type(getattr(Recipe(), key))
        if type(value) is not wanted:
            raise UserError(f"{path}: {key}={value!r}: must be {wanted.__name__}")
    return Recipe(**content)


def cook(recipe: Recipe, overrides: list[str]) -> Path:
    """Train what is not trained yet, then draw and write the page; returns the page."""
    from unclip.evaluation.scene_report import report

    began = time.perf_counter()
    root = Path(recipe.dir)
    plan = {"clip": recipe.clip, "prior": recipe.prior, "decoder": recipe.decoder}
    for name in recipe.upsamplers:
        size = config.load(name).config.model.image_size
        plan[f"upsampler_{size}"] = name
    finished = []
    for part, name in plan.items():
        more = [*recipe.overrides, *overrides, f"run.dir={root / part}"]
        if part in ("prior", "decoder"):
            more.append(f"clip={root / 'clip'}")
        finished.append(_part(config.load(name, more)))
    return report(root, finished, prompts=recipe.prompts, seconds=time.perf_counter() - began)


def _part(resolved: config.Resolved) -> Finished:
    """A finished run is kept if its experiment is the same; an interrupted one continues."""
    folder = Path(resolved.config.run.dir)
    if (folder / "artifact" / "artifact.json").is_file():
        before = artifacts.describe(folder).config
        if _same(before, resolved.as_dict()):
            print(f"{resolved.name}: {folder} is finished, kept")
            return Finished.load(folder)
        raise UserError(
            f"{folder}: holds a finished run with other settings; remove the folder, or give the "
            "recipe another --dir"
        )
    return train(resolved, resume=newest_checkpoint(folder) is not None, force=folder.exists())


def _same(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether two experiments agree, apart from what the CLIP fills in."""
    filled = {"model.embed_dim", "model.clip_text_width", "model.context"}
    a, b = dict(config.leaves(before)), dict(config.leaves(now))
    keys = [k for k in {*a, *b} if not (k in filled and b.get(k) is None)]
    return all(a.get(k) == b.get(k) for k in keys if k != "model.context")
