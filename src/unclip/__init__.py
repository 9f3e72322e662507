"""unclip: train, ablate, reproduce and use the whole unCLIP (DALL-E 2) system.

The front door, from which everything is imported when it is first asked for:

    from unclip import Pipeline, load_experiment, sample_captions, train

    finished = train(load_experiment("prior/tiny"), with_parents=True)
    pipeline = Pipeline.load("runs/quickstart")  # or "karlo", "cascade.zip", "hf://ORG/NAME"
    image = pipeline.generate(["a red circle"], seeds=[0]).image
    sample_captions("runs/quickstart", "captions.txt", "many")
"""

from __future__ import annotations

import importlib as _importlib
import typing as _typing

__version__ = "0.1.0"
__all__ = ["Pipeline", "load_experiment", "sample_captions", "train"]

_FROM = {
    "Pipeline": "unclip.sharing.front_door",
    "load_experiment": "unclip.config.load",
    "sample_captions": "unclip.runs.sample_captions",
    "train": "unclip.runs.train",
}


def __getattr__(name: str) -> _typing.Any:
    if name not in _FROM:
        raise AttributeError(f"module 'unclip' has no attribute {name!r}")
    return getattr(_importlib.import_module(_FROM[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])
