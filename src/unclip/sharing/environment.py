"""What is different now from when a bundle's run was trained: code, packages, machine, data."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch

from unclip.common.errors import UserError
from unclip.common.fields import leaves
from unclip.config.load import ResolvedExperiment
from unclip.embeddings.clip import FrozenClip
from unclip.runs.parents import frozen_clip
from unclip.sharing.bundle import THREADS, BundleEntry
from unclip.stages.row import CLIP
from unclip.tracking.provenance import collect

_OF_THE_RUN = (
    *("created", "command", "experiment", "resumed", "code_diff", "metrics", "parents"),
    *("seed", "data_fingerprint", "init"),
)


class Difference(NamedTuple):
    """A fact that is not what it was."""

    what: str
    then: str
    now: str


def differences(part: BundleEntry, now: ResolvedExperiment) -> list[Difference]:
    """Facts of ``part``'s provenance that this machine would write differently.

    Args:
        part: A run of a bundle.
        now: Its experiment with the user's overrides, which names the data.

    Raises:
        UserError: the data cannot be opened.
    """
    fingerprint = _data_fingerprint(part, now)
    trainer = now.config.trainer
    here = collect(
        experiment=now.name,
        seed=trainer.seed,
        processes=trainer.processes,
        data_fingerprint=fingerprint,
        parents={},
    )
    one, two = _facts(part.provenance), _facts(here)
    found = [Difference(k, one.get(k, "-"), two.get(k, "-")) for k in one | two]
    found.append(Difference("data fingerprint", part.data_fingerprint, fingerprint))
    return [each for each in found if each.then != each.now]


def _facts(provenance: dict[str, Any]) -> dict[str, str]:
    """Dotted name -> value as text; threads are set as they were, so they do not differ."""
    kept = {k: v for k, v in provenance.items() if k not in (*_OF_THE_RUN, THREADS)}
    return {key: str(value) for key, value in leaves(kept)}


def _data_fingerprint(part: BundleEntry, now: ResolvedExperiment) -> str:
    """Of the training samples that ``now`` names, as its run would find them."""
    experiment = copy.deepcopy(now.config)
    clip = None
    if CLIP in now.stage.parents:
        spec = experiment.clip
        with torch.device("meta"):
            model = frozen_clip(spec)
        clip = FrozenClip(model, str(part.provenance["parents"].get("clip")), spec)
    try:
        return now.stage.data_module(experiment, clip).splits.train.fingerprint()
    except UserError as error:
        data = experiment.data
        key = "embeddings" if getattr(data, "embeddings", None) else "source"
        key = "mixture.NAME.source" if data.source == "mixture" else key
        raise UserError(f"{error}; name your copy by data.{key}=...") from None
