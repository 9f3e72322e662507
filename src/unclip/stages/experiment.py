"""What the experiment files of all stages have in common. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from unclip.common.adapters import TOKEN, AdapterConfig
from unclip.common.checks import require, require_choices
from unclip.common.errors import UserError
from unclip.diffusion.config import DiffusionConfig, SamplerConfig, section_counts
from unclip.embeddings.config import UNIT, Embeddings
from unclip.tracking.config import TrackingConfig
from unclip.training.config import (
    EmaConfig,
    EvaluationConfig,
    OptimConfig,
    RunConfig,
    TrainerConfig,
)


class ParentSizes(NamedTuple):
    """The sizes that the parents of a stage decide; None where there is no such parent."""

    embed_dim: int | None = None  # D, of the CLIP
    text_width: int | None = None  # of the CLIP's token features
    context: int | None = None  # tokens that the CLIP reads
    embeddings: Embeddings | None = None  # that the CLIP makes, where it says so
    codes: int | None = None  # K, of the PCA
    buckets: int | None = None  # N, of the PCA
    clip: str = ""  # where the CLIP comes from, for errors
    pca: str = ""  # likewise the PCA


def fill_size(
    model: Any, name: str, value: int | str | None, *, parent: str, section: str = "model"
) -> None:
    """Set ``name`` of ``model`` to the ``value`` that ``parent`` decides.

    Raises:
        UserError: the field has another value already.
    """
    if getattr(model, name) not in (None, value):
        raise UserError(
            f"{section}.{name}={getattr(model, name)}: {parent} has {value}; give that or null"
        )
    setattr(model, name, value)


def embeddings_of(experiment: Any) -> Embeddings | None:
    """The ``embeddings`` of the section ``model`` (of a PCA: ``pca``); None if it does not say."""
    section = getattr(experiment, "model", None) or getattr(experiment, "pca", None)
    return getattr(section, "embeddings", None)


def fill_embeddings(model: Any, sizes: ParentSizes, *, section: str = "model") -> None:
    """Set which embeddings a stage takes: those that its CLIP makes, unit ones if nobody says.

    A stage without the field takes what comes.

    Raises:
        UserError: the field has the other kind already.
    """
    if not hasattr(model, "embeddings"):
        return
    made = sizes.embeddings or model.embeddings or UNIT
    fill_size(model, "embeddings", made, parent=f"the CLIP {sizes.clip}", section=section)


def require_steps_fit(sampler: SamplerConfig, diffusion: DiffusionConfig) -> None:
    """Refuse more sampling steps than the chain has."""
    counts = section_counts(sampler.steps)
    require(
        max(counts) <= diffusion.steps // len(counts),
        "sampler.steps",
        f"{sampler.steps} does not fit into diffusion.steps={diffusion.steps}",
    )


def require_probability(value: float, key: str) -> None:
    """Refuse what is no probability."""
    require(0 <= value <= 1, key, "must be in [0, 1]")


@dataclass(kw_only=True)
class BaseExperiment:
    """Fields that every stage has, fitted or trained."""

    GONE: ClassVar[dict[str, str]] = {"check": "use `unclip overfit NAME`"}

    stage: str = ""  # what is trained: a name in stages/registry.py
    about: str = ""  # what the experiment is for, in a line
    run: RunConfig = field(default_factory=RunConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def validate(self) -> None:
        """Refuse what the sections cannot see by themselves."""
        require_choices(self, "")


@dataclass(kw_only=True)
class Experiment(BaseExperiment):
    """Fields that every stage that trains has."""

    averages: ClassVar[bool] = False  # whether it has a section `ema`

    init: str | None = (
        None  # artifact, run, experiment or cascade whose weights training begins from
    )
    init_skip: list[str] = field(default_factory=list)  # patterns of weights that begin anew
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)

    def without_noise(self, *, steps: int) -> None:
        """Drop, corrupt and guide nothing, and sample in at most ``steps``: `unclip overfit`.

        Conditions are not dropped, so there is no unconditional network to guide with.
        """

    @property
    def evaluated(self) -> EvaluationConfig | None:
        """How samples are measured while it trains; None: they are not."""
        return None

    def check_sampler(self, sampler: Any) -> None:
        """Refuse sampler settings that a network of this experiment cannot be sampled with."""

    def validate(self) -> None:
        """Refuse what the sections cannot see by themselves."""
        super().validate()
        require(
            self.optim.name != "adamw8bit" or self.trainer.strategy != "fsdp",
            "optim.name",
            "must be adamw or muon with trainer.strategy=fsdp: 8-bit moments are of whole tensors",
        )
        require(
            self.optim.name == "adamw" or self.trainer.precision != "bf16-true",
            "optim.name",
            "must be adamw with trainer.precision=bf16-true: it alone rounds stochastically",
        )
        require(self.init != "", "init", "must name weights, or be null")
        require(
            not self.init_skip or self.init is not None, "init_skip", "has no effect without init"
        )
        require(
            all(self.init_skip), "init_skip", "has an empty pattern; name weights, as unet.out.*"
        )


@dataclass(kw_only=True)
class AveragedExperiment(Experiment):
    """Fields of the stages that average their weights and can be trained by an adapter."""

    averages: ClassVar[bool] = True

    ema: EmaConfig = field(default_factory=EmaConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)

    def validate(self) -> None:
        """Refuse an adapter of nothing, or beside weights that its artifact would not hold."""
        super().validate()
        if self.adapter.kind == TOKEN:
            self._check_token()
        if self.adapter.kind != "none":
            require(self.init is not None, "adapter.kind", "needs init, the weights that it adapts")
            named = [p for p in self.init_skip if not p.startswith(("model.", "diffusion."))]
            require(
                not named,
                "init_skip",
                f"{named[:1]}: with an adapter no other weight trains, so none can begin anew",
            )

    def _check_token(self) -> None:
        """Refuse what a word that the CLIP learns cannot be trained with."""
        require(
            self.optim.name != "muon",
            "optim.name",
            "must be adamw with adapter.kind=token: muon is for the layers of networks",
        )
        require(
            self.trainer.strategy != "fsdp",
            "trainer.strategy",
            "must be auto or ddp with adapter.kind=token",
        )
        data = getattr(self, "data", None)
        require(
            getattr(data, "embeddings", None) is None,
            "data.embeddings",
            "must be null with adapter.kind=token: what a CLIP says of captions changes",
        )


@dataclass(kw_only=True)
class DiffusionExperiment(AveragedExperiment):
    """Fields of the stages whose network is a diffusion's."""

    init_teaches: str | None = (
        None  # source of data.mixture whose target is what the weights of init say of it
    )

    def validate(self) -> None:
        """Refuse a teacher that is not there, or has nothing to teach."""
        super().validate()
        if self.init_teaches is None:
            return
        data: Any = getattr(self, "data", None)
        named = sorted(data.mixture) if data.source == "mixture" else []
        require(
            self.init_teaches in named,
            "init_teaches",
            f"must be a source of data.mixture ({', '.join(named) or 'data.source is none'})",
        )
        require(self.init is not None, "init_teaches", "needs init, the weights that teach")
        require(
            getattr(data, "embeddings", None) is None,
            "data.embeddings",
            "must be null with init_teaches, which is of a source of data.mixture",
        )
        require(
            self.adapter.kind != TOKEN,
            "init_teaches",
            "has no effect with adapter.kind=token: the network does not change",
        )
        require(
            self.trainer.strategy != "fsdp",
            "trainer.strategy",
            "must be auto or ddp with init_teaches",
        )


def teaches(experiment: Any) -> bool:
    """Whether the weights of ``init`` teach the network while it trains."""
    return getattr(experiment, "init_teaches", None) is not None


def sample_plainly(sampler: SamplerConfig, diffusion: DiffusionConfig, *, steps: int) -> None:
    """Set deterministic sampling in at most ``steps``, and a network of ε to learn v.

    An error of ε is one of x_0 times √((1 - ᾱ)/ᾱ), 17 at t = 957 of 1000. After 600 steps of
    decoder/tiny samples from pure noise had 11 dB by ε, 27 dB by v.
    """
    if diffusion.prediction == "eps":
        diffusion.prediction = "v"
    sampler.sampler, sampler.eta = "ddim", 0.0
    sampler.steps = min(steps, diffusion.steps)
