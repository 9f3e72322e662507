"""Which pipeline of diffusers a cascade's stages make, and what its folder calls them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from unclip.stages.row import CLIP, DECODER, PRIOR, UPSAMPLER
from unclip.weights.writing.components import Component
from unclip.weights.writing.stages import Stage

INDEX = "model_index.json"


class Pipeline(NamedTuple):
    """A pipeline's class."""

    cls: str
    stages: tuple[str, ...]  # just these kinds
    sees: bool  # whether it needs a CLIP that embeds images
    names: Mapping[str, str] = {}  # of folders, where not the usual ones
    leaves: tuple[str, ...] = ()  # folders that are none of its components

    def table(self, made: Mapping[str, Component]) -> dict[str, Any]:
        """What `from_pretrained` reads."""
        named = {k: [c.library, c.cls] for k, c in made.items() if k not in self.leaves}
        return {"_class_name": self.cls, **named}


KANDINSKY = ("KandinskyPriorPipeline", "KandinskyV22PriorPipeline")
"""2.1's and 2.2's, of the same components."""
_PIPELINES = (
    Pipeline(
        "UnCLIPPipeline",
        (CLIP, PRIOR, DECODER, UPSAMPLER),
        sees=False,
        leaves=("image_encoder", "feature_extractor"),
    ),
    Pipeline("UnCLIPImageVariationPipeline", (CLIP, DECODER, UPSAMPLER), sees=True),
    Pipeline(
        KANDINSKY[0],
        (CLIP, PRIOR),
        sees=True,
        names={"prior_scheduler": "scheduler", "feature_extractor": "image_processor"},
    ),
)


def pipeline_of(stages: Mapping[str, Stage]) -> Pipeline | None:
    """The pipeline of just these stages, if diffusers has one."""
    sees = CLIP in stages and stages[CLIP].experiment.model.vision != "none"
    for each in _PIPELINES:
        if set(each.stages) == set(stages) and (sees or not each.sees):
            name = stages[PRIOR].imported.get("pipeline") if PRIOR in stages else None
            both = each.cls in KANDINSKY and name in KANDINSKY
            return each._replace(cls=str(name)) if both else each
    return None


def no_pipeline(stages: Iterable[str]) -> str:
    """What to say of an export without one."""
    return (
        f"no pipeline of diffusers has just {', '.join(stages)}: there is no {INDEX}, load each "
        "component by its own class"
    )
