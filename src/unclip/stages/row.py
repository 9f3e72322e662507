"""A row of the table of stages: what every stage folder offers, by name.

A stage is a folder with the files of `OFFERS` (one that is fitted and not trained: of
`FITTED_OFFERS`). A row finds them by these names, so nobody else has to know the folder. Files are
imported when they are first asked for, so that listing experiments imports no torch.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, Literal

from unclip.stages.experiment import BaseExperiment, ParentSizes

KINDS = ("clip", "pca", "prior", "decoder", "upsampler")
"""The folders of an experiments directory; several stages may share one."""
CLIP, PCA, PRIOR, DECODER, UPSAMPLER = KINDS

_DATA = ("data_module",)
_CONFIG = ("EXPERIMENT", "SAMPLER", "fill", "filled_fields")
OFFERS: dict[str, tuple[str, ...]] = {
    "config": _CONFIG,
    "network": ("build_network", "needs", "dry_step"),
    "sampling": ("dry_sampling",),
    "stage": ("build_stage", *_DATA),
    "part": ("load",),
}
"""The files in the folder of a stage that trains, and what each must define."""
FITTED_OFFERS: dict[str, tuple[str, ...]] = {
    "config": _CONFIG,
    "fit": ("fit", *_DATA),
    "part": ("load",),
}
"""The same of a stage that is fitted."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A stage that an experiment file may name."""

    name: str
    kind: str  # one of KINDS
    about: str  # a line for listings
    use: str  # what a trained one is for, as its model card says
    parents: tuple[str, ...] = ()  # kinds that it depends on
    verb: Literal["train", "fit-pca"] = "train"  # the command that makes it

    def _file(self, name: str) -> Any:
        return importlib.import_module(f"unclip.stages.{self.name}.{name}")

    @property
    def trains(self) -> bool:
        """Whether it has a network that is trained; else it is fitted."""
        return self.verb == "train"

    @property
    def offers(self) -> dict[str, tuple[str, ...]]:
        """The files of its folder, and what each defines."""
        if not self.trains:
            return FITTED_OFFERS
        return {k: v for k, v in OFFERS.items() if self.sampler or k != "sampling"}

    # config.py, without torch

    @property
    def experiment(self) -> type[BaseExperiment]:
        """The dataclass of its experiment files."""
        return self._file("config").EXPERIMENT

    @property
    def sampler(self) -> type | None:
        """The dataclass of its section ``sampler``, if it can be sampled from."""
        return self._file("config").SAMPLER

    def fill(self, experiment: Any, sizes: ParentSizes) -> None:
        """Fill in the sizes that its parents decide; those that contradict them are refused."""
        self._file("config").fill(experiment, sizes)

    def filled_fields(self, experiment: Any) -> tuple[str, ...]:
        """The keys that `fill` sets, whatever they were."""
        return self._file("config").filled_fields(experiment)

    # network.py

    def build_network(self, experiment: Any, sizes: ParentSizes) -> Any:
        """Its network (``nn.Module``), freshly initialised on the default device."""
        return self._file("network").build_network(experiment, sizes)

    def needs(self, experiment: Any) -> Any:
        """What a training step takes from the frozen CLIP (`unclip.stages.interface.Needs`)."""
        return self._file("network").needs(experiment)

    def dry_step(self, net: Any, experiment: Any, given: Any, share: Any) -> Any:
        """The network's output for a micro-batch of nothing: what a step costs can be traced."""
        return self._file("network").dry_step(net, experiment, given, share)

    # sampling.py

    def dry_sampling(self, net: Any, experiment: Any, given: Any, share: Any) -> Any:
        """Computes what sampling computes once, of nothing; returns one step, to be called."""
        return self._file("sampling").dry_sampling(net, experiment, given, share)

    # stage.py, or fit.py

    def build_stage(self, experiment: Any, parents: Any) -> Any:
        """Its LightningModule, freshly initialised."""
        return self._file("stage").build_stage(experiment, parents)

    def data_module(self, experiment: Any, clip: Any) -> Any:
        """Its LightningDataModule."""
        return self._file("stage" if self.trains else "fit").data_module(experiment, clip)

    def fit(self, experiment: Any, clip: Any, data: Any, device: Any) -> Any:
        """What is fitted instead of trained (`unclip.stages.pca.fit.PcaFit`)."""
        return self._file("fit").fit(experiment, clip, data, device)

    # part.py

    def load(self, path: Any, clip: Any = None, *, key: str = "") -> Any:
        """A trained one from its artifact, ready for use; ``key`` names it in errors."""
        return self._file("part").load(path, clip, key=key or self.kind)
