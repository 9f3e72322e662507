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

__all__ = ["Pipeline", "load_experiment", "sample_captions", "train"]

_FROM = {
    "Pipeline": "unclip.sharing.front_door",
    "load_experiment": "unclip.config.load",
    "sample_captions": "unclip.runs.sample_captions",
    "train": "unclip.runs.train",
}


def __getattr__(name: str) -> _typing.Any:
    if name == "__version__":
        return _version()
    if name not in _FROM:
        raise AttributeError(f"module 'unclip' has no attribute {name!r}")
    return getattr(_importlib.import_module(_FROM[name]), name)


def _version() -> str:
    """Of the installed package; a copy that is only on the path has none."""
    from importlib import metadata

    try:
        return metadata.version("unclip")
    except metadata.PackageNotFoundError:
        return "unknown"


def __dir__() -> list[str]:
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])
