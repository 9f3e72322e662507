"""What an experiment file says about its data. Imports no torch."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from unclip.common.blank import is_blank
from unclip.common.checks import require, require_choices
from unclip.common.seeds import require_seed
from unclip.embeddings.config import Embeddings

SOURCES = (
    "scenes, mixture, a .tar or .parquet file (or many: {000..099}, *), a folder with these or "
    "with metadata.jsonl, metadata.csv or a .txt beside each image, COCO captions "
    "FILE.json[?images=FOLDER], or hf:NAME[:CONFIG][@SPLIT]; files are local or URLs of fsspec"
)
"""Every form of `data.source`."""

BUILT_IN = ("scenes", "mixture")
"""Values of data.source that name no file or folder."""

SHAPES = ("circle", "square", "triangle", "star", "cross", "heart")
"""What an object of a scene can be."""

MAX_PIXELS = 89_478_485  # Pillow's limit; it refuses more than twice as many by itself
MAX_ASPECT = 20.0


OnError = Literal["skip", "error"]


EXCHANGED = "colours exchanged"
CONTRASTS = ("shape", "place", "colour", EXCHANGED)
"""Facts in which scenes in a row may differ."""


@dataclass(kw_only=True)
class ScenesConfig:
    """The built-in procedural dataset (used when data.source is `scenes`)."""

    count: int = 50_000  # training scenes; the held-out ones come after them
    max_objects: int = 2  # 1 or 2 objects a scene
    shapes: list[str] = field(default_factory=lambda: list(SHAPES))  # that objects can have
    words: float = 0.02  # share of scenes that are a short printed word
    detail: float = 0.6  # chance that a caption says size, place and background, each
    contrast: int = 1  # training scenes in a row that differ in one fact
    contrasts: list[str] = field(default_factory=lambda: ["shape", "shape", "place"])  # in turn
    seed: int = 0  # the dataset's own seed, apart from trainer.seed

    def validate(self) -> None:
        """Refuse what no dataset can have."""
        require(self.count > 0, "data.scenes.count", "must be at least 1")
        require(self.max_objects in (1, 2), "data.scenes.max_objects", "must be 1 or 2")
        known = len(set(self.shapes) & set(SHAPES)) == len(self.shapes) > 0
        require(known, "data.scenes.shapes", f"must be some of {', '.join(SHAPES)}, each once")
        require_seed(self.seed, "data.scenes.seed")
        require(0 <= self.words <= 1, "data.scenes.words", "must be in [0, 1]")
        require(0 <= self.detail <= 1, "data.scenes.detail", "must be in [0, 1]")
        few = 1 <= self.contrast <= len(self.shapes)
        require(few, "data.scenes.contrast", f"must be in [1, {len(self.shapes)}], one per shape")
        listed = len(self.contrasts) > 0 and set(self.contrasts) <= set(CONTRASTS)
        require(listed, "data.scenes.contrasts", f"must be some of {', '.join(CONTRASTS)}, in turn")
        facts = [self.contrasts[k % len(self.contrasts)] for k in range(self.contrast - 1)]
        for fact in ("place", EXCHANGED):  # again it would be the same scene
            again = f"has {fact} twice in a group of {self.contrast}; list more facts"
            require(facts.count(fact) < 2, "data.scenes.contrasts", again)


@dataclass(kw_only=True)
class MixtureConfig:
    """One source of a mixture."""

    source: str = ""  # any of SOURCES but a mixture
    weight: float = 1.0  # its share of the samples, relative to the other sources'


@dataclass(kw_only=True)
class ReadingConfig:
    """Where samples come from, and which of them count: enough to read them once, in order."""

    # What other configs have as fields; here samples are taken as they are.
    val_samples: ClassVar[int] = 256  # of scenes at least so many are held out
    crop: ClassVar[str] = "center"
    flip: ClassVar[bool] = False

    source: str = "scenes"  # one of SOURCES
    mixture: dict[str, MixtureConfig] = field(default_factory=dict)  # used by `source: mixture`
    batch_size: int = 64  # samples per optimizer step, over all processes and accumulations
    num_workers: int = 0  # loader processes per training process, at most one per core
    caption: str | None = None  # of images that have none; {folder} is the name of their folder
    on_error: OnError = "skip"  # skip: count and log unreadable samples; error: stop at the first
    max_skipped: float = 0.1  # share of unreadable samples that stops the run even with skip
    held_out: float = 0.02  # share of samples kept for validation, chosen by a hash of the key
    max_pixels: int = MAX_PIXELS  # an image of more is unreadable
    max_aspect: float = MAX_ASPECT  # an image of a longer side over shorter is unreadable
    limit: int | None = (
        None  # use only the first so many training samples (of each source of a mixture)
    )
    scenes: ScenesConfig = field(default_factory=ScenesConfig)

    def validate(self) -> None:
        """Refuse values out of range."""
        self.scenes.validate()
        require(bool(self.source), "data.source", "must not be empty")
        self._validate_mixture()
        named = self.caption is None or not is_blank(self.caption)
        require(named, "data.caption", "must be a text, as a photo of a {folder}, or null")
        require(self.batch_size > 0, "data.batch_size", "must be at least 1")
        require(self.num_workers >= 0, "data.num_workers", "must not be negative")
        require_choices(self, "data")
        require(0 <= self.max_skipped <= 1, "data.max_skipped", "must be in [0, 1]")
        require(0 <= self.held_out < 1, "data.held_out", "must be in [0, 1)")
        within = 0 < self.max_pixels <= 2 * MAX_PIXELS
        require(within, "data.max_pixels", f"must be in [1, {2 * MAX_PIXELS}]")
        require(self.max_aspect >= 1, "data.max_aspect", "must be at least 1")
        require(self.limit is None or self.limit > 0, "data.limit", "must be at least 1 or null")

    def _validate_mixture(self) -> None:
        named = self.source != "mixture" or bool(self.mixture)
        require(named, "data.mixture", "must name its sources: {NAME: {source: ..., weight: 1}}")
        for name, one in self.mixture.items():
            word = re.fullmatch(r"[\w-]+", name, re.ASCII) is not None
            require(word, "data.mixture", f"name {name!r} must be of letters, digits, _ and -")
            key = f"data.mixture.{name}"
            require(one.source not in ("", "mixture"), f"{key}.source", "must be a source")
            require(0 < one.weight < math.inf, f"{key}.weight", "must be more than 0")


@dataclass(kw_only=True)
class TrainingDataConfig(ReadingConfig):
    """What is shuffled and trained on."""

    shuffle_window: int = 65_536  # samples shuffled together, of a source of shards with more
    val_samples: int = 256  # type: ignore[misc]  # at most so many held-out samples validate
    flip: bool = False  # type: ignore[misc]  # mirror half of the images, not where the caption names a side or writing

    def validate(self) -> None:
        """Refuse values out of range."""
        super().validate()
        require(self.shuffle_window > 0, "data.shuffle_window", "must be at least 1")
        require(self.val_samples > 0, "data.val_samples", "must be at least 1")


@dataclass(kw_only=True)
class DataConfig(TrainingDataConfig):
    """What is trained on as whole squares."""

    crop: Literal["center", "random"] = "center"  # type: ignore[misc]  # square crop of the resized image


@dataclass(kw_only=True)
class EmbeddedDataConfig(DataConfig):
    """Data for a stage that depends on a CLIP, whose embeddings may come from disk."""

    embeddings: str | None = None  # a folder of `unclip embed` or clip-retrieval; null: on the fly
    cache_embeddings: Literal["auto", "always", "never"] = (
        "auto"  # keep what the CLIP says, in $UNCLIP_CACHE; auto: where it is needed twice
    )

    def validate(self) -> None:
        """Refuse values out of range."""
        super().validate()
        require(self.embeddings != "", "data.embeddings", "must name a folder, or be null")
        require(
            self.embeddings is None or self.crop == "center",
            "data.crop",
            "must be center with data.embeddings, which are those of the central square",
        )
        require(
            self.cache_embeddings != "always" or self.embeddings is None,
            "data.cache_embeddings",
            "must be auto or never with data.embeddings, which are on disk already",
        )
        require(
            self.cache_embeddings != "always" or not (self.crop == "random" or self.flip),
            "data.cache_embeddings",
            "must be auto or never where data.crop or data.flip draws other images each time",
        )


@dataclass(kw_only=True)
class PassDataConfig(ReadingConfig):
    """What is read once, in order, and embedded or has embeddings: the data of a PCA."""

    GONE: ClassVar[dict[str, str]] = {
        name: "samples are read once, in order and as they are"
        for name in ("shuffle_window", "val_samples", "crop", "flip")
    }

    embeddings: str | None = None  # a folder of `unclip embed` or clip-retrieval; null: on the fly

    def validate(self) -> None:
        """Refuse values out of range."""
        super().validate()
        require(self.embeddings != "", "data.embeddings", "must name a folder, or be null")


@dataclass(kw_only=True)
class EmbedConfig:
    """What `unclip embed` is told besides the CLIP and the folder that it writes."""

    data: ReadingConfig = field(default_factory=ReadingConfig)  # batch_size: encoded together
    shard_size: int = 100_000  # samples of the source per shard
    dtype: Literal["float16", "float32"] = "float16"  # of the embeddings on disk
    embeddings: Embeddings | None = None  # unit (length 1) or raw; null takes the CLIP's
    captions: Literal["all", "first"] = "all"  # all: a row for each caption of an image
    precision: Literal["32", "tf32", "bf16", "fp16"] = "32"  # of the CLIP
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"  # auto: a GPU if there is one
    devices: int = 1  # processes per machine, a device each
    nodes: int = 1  # machines; more than one are started by torchrun or srun

    def validate(self) -> None:
        """Refuse values out of range."""
        for name in ("shard_size", "devices", "nodes"):
            require(getattr(self, name) >= 1, name, "must be at least 1")
        require_choices(self, "")


@dataclass(kw_only=True)
class UpsamplerDataConfig(TrainingDataConfig):
    """An upsampler trains on random crops of the full-size image."""

    GONE: ClassVar[dict[str, str]] = {"crop": "crops are random, of data.crop_fraction"}

    crop_fraction: float = 0.25  # side of the training crop over model.image_size

    def validate(self) -> None:
        """Refuse values out of range."""
        super().validate()
        require(0 < self.crop_fraction <= 1, "data.crop_fraction", "must be in (0, 1]")
