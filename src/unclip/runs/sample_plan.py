"""What `unclip sample --devices` is told, and the images that come of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unclip.common.blank import is_blank
from unclip.common.checks import require
from unclip.common.errors import UserError
from unclip.common.seeds import seeds_from
from unclip.data.readers.captions import Caption, number_captions, read_captions
from unclip.runs.image_shards import FORMATS, PlannedImage


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """How `sample_captions` samples and shares the work."""

    n: int = 1  # images per caption
    seed: int = 0  # of the first image; image k of the list has seed + k
    limit: int | None = None  # captions, drawn from those given: always the same
    format: str = "png"  # of the shards, one of `FORMATS`
    shard_size: int = 256  # images per shard
    keep_z_i: bool = False  # beside each image of a tar
    device: str = "auto"  # auto, cpu, cuda or mps
    precision: str = "auto"  # of `unclip.pipeline.settings.PRECISIONS`
    offload: str = "none"  # of `unclip.pipeline.settings.OFFLOADINGS`; the images are the same
    compile: str = "none"  # of `unclip.pipeline.settings.COMPILINGS`
    devices: int | None = None  # processes per machine; None: 1, or as torchrun started
    nodes: int | None = None  # machines; None likewise

    def validate(self) -> None:
        """Refuse values out of range."""
        for name in ("n", "limit", "shard_size", "devices", "nodes"):
            value, option = getattr(self, name), f"--{name.replace('_', '-')}"
            require(value is None or value >= 1, option, f"is {value}, must be at least 1")
        require(
            self.format in FORMATS,
            f"--format {self.format}",
            f"must be one of {', '.join(FORMATS)}",
        )
        require(not self.keep_z_i or self.format == "tar", "--keep-z-i", "needs --format tar")


def list_captions(captions: Path | str | Sequence[str | Caption]) -> list[Caption]:
    """The captions of a file, or texts with numbers for keys.

    Raises:
        UserError: The file cannot be read, or a text is empty.
    """
    if isinstance(captions, (Path, str)):
        return read_captions(Path(captions), option="captions")
    given = list(captions)
    if all(isinstance(caption, Caption) for caption in given):
        return [caption for caption in given if isinstance(caption, Caption)]
    if any(not isinstance(caption, str) or is_blank(caption) for caption in given):
        raise UserError("captions: each must be a text that is not empty")
    return number_captions([str(caption).strip() for caption in given])


def plan_images(captions: list[Caption], config: SampleConfig) -> list[list[PlannedImage]]:
    """The images of each shard.

    Raises:
        UserError: ``config.seed``, or the last image's, is out of range.
    """
    seeds = iter(seeds_from(config.seed, len(captions) * config.n, "--seed"))
    planned = [
        PlannedImage(key if config.n == 1 else f"{key}-{k}", text, next(seeds))
        for key, text in captions
        for k in range(config.n)
    ]
    size = config.shard_size
    return [planned[first : first + size] for first in range(0, len(planned), size)]
