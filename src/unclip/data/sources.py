"""Which samples are for training and which are held out, of one source or of a mixture."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from typing import Literal, NamedTuple, TypeVar

import numpy as np

from unclip.common.errors import UserError
from unclip.data.config import ReadingConfig, ScenesConfig
from unclip.data.decode import Limits
from unclip.data.keys import held_out_mask
from unclip.data.readers.opening import open_files
from unclip.data.readers.source import Concat, Source, Subset, digest, hashes
from unclip.data.readers.wrapped import NamedSource
from unclip.data.scenes.dataset import Scenes

Split = Literal["train", "held_out", "all"]

T = TypeVar("T")
C = TypeVar("C", bound=ReadingConfig)


class Splits(NamedTuple):
    """A source in two parts that share no key."""

    train: Source
    held_out: Source
    weights: tuple[float, ...] | None = None  # of a mixture: how often each source is drawn from
    lengths: tuple[int, ...] = ()  # and how many training samples it has


class SceneSource(Scenes):
    """The built-in scenes as a `Source`."""

    def shards(self) -> None:
        """Any scene is drawn as soon as any other."""

    def fingerprint(self) -> str:
        """A hash of the settings and of the first image, which tells the renderer's version."""
        pixels = hashlib.blake2b(self[0].image.tobytes(), digest_size=8).hexdigest()
        config = asdict(self.config)
        if self.config.contrast == 1 or self.config.contrasts == ScenesConfig().contrasts:
            del config["contrasts"]  # runs from before there were others go on
        return digest((config, self.size, self.start, self.count, pixels))


def open_splits(config: ReadingConfig, *, image_size: int) -> Splits:
    """The training and the held-out samples of ``config.source``, opened once.

    Args:
        config: Where the samples are, which share is held out, and `limit` for the training part.
        image_size: Pixels a side at which scenes are drawn; files keep their own sizes.

    Raises:
        UserError: The source does not exist, is damaged or holds no samples.
    """
    if config.source == "mixture":
        return _mixed_splits(config, image_size)
    if config.source == "scenes":
        count = config.scenes.count if config.limit is None else config.limit
        even = replace(config, scenes=replace(config.scenes, contrast=1))  # judged without pairs
        return Splits(
            _scenes(config, image_size, start=0, count=min(count, config.scenes.count)),
            _scenes(even, image_size, start=config.scenes.count, count=_held_out_scenes(config)),
        )
    source = _files(config)
    kept = held_out_mask(hashes(source), config.held_out)
    return Splits(
        Subset(source, np.flatnonzero(~kept)[: config.limit]),
        Subset(source, np.flatnonzero(kept)),
    )


def open_source(
    spec: str, config: ReadingConfig, *, image_size: int, split: Split = "train"
) -> Source:
    """One part of the source ``spec``, or `all` of it (for a set that is for evaluation only).

    Args:
        spec: Takes the place of ``config.source``.
        config: As for `open_splits`.
        image_size: As for `open_splits`.
        split: `train` (with `limit`), `held_out`, or `all` (no split, no limit).

    Raises:
        UserError: The source does not exist, is damaged or holds no samples.
    """
    if split != "all":
        splits = open_splits(replace(config, source=spec), image_size=image_size)
        return splits.train if split == "train" else splits.held_out
    return _everything(replace(config, source=spec), image_size=image_size)


def _everything(config: ReadingConfig, *, image_size: int) -> Source:
    if config.source == "mixture":
        opened = _each_source(config, partial(_everything, image_size=image_size))
        return Concat([NamedSource(name, source) for name, source in opened.items()])
    if config.source == "scenes":
        count = config.scenes.count + _held_out_scenes(config)
        return _scenes(config, image_size, start=0, count=count)
    return _files(config)


def _mixed_splits(config: ReadingConfig, image_size: int) -> Splits:
    def open_one(one: ReadingConfig) -> Splits:
        splits = open_splits(one, image_size=image_size)
        if len(splits.train) == 0:
            raise UserError(
                f"data.source: {one.source} has no training samples; lower data.held_out"
            )
        return splits

    opened = _each_source(config, open_one)
    kept = [NamedSource(name, splits.held_out) for name, splits in opened.items()]
    # Validation uses the first few of them: each source has its share among any first few.
    places = np.concatenate([(np.arange(len(one)) + 0.5) / max(1, len(one)) for one in kept])
    return Splits(
        Concat([NamedSource(name, splits.train) for name, splits in opened.items()]),
        Subset(Concat(kept), np.argsort(places, kind="stable")),
        weights=tuple(one.weight for one in config.mixture.values()),
        lengths=tuple(len(splits.train) for splits in opened.values()),
    )


def _each_source(config: C, open_one: Callable[[C], T]) -> dict[str, T]:
    """``open_one`` of each source of the mixture, by name; its errors name the source's key."""
    found = {}
    for name, one in config.mixture.items():
        try:
            found[name] = open_one(replace(config, source=one.source))
        except UserError as error:
            key = f"data.mixture.{name}.source"
            raise UserError(str(error).replace("data.source", key, 1)) from None
    return found


def _files(config: ReadingConfig) -> Source:
    limits = Limits(config.max_pixels, config.max_aspect, named=True)
    return open_files(
        config.source, on_error=config.on_error, limits=limits, caption=config.caption
    )


def _held_out_scenes(config: ReadingConfig) -> int:
    """Scenes cost nothing to have, so there are always enough for `val_samples`."""
    if config.held_out == 0:
        return 0
    return max(config.val_samples, round(config.held_out * config.scenes.count))


def _scenes(config: ReadingConfig, image_size: int, *, start: int, count: int) -> SceneSource:
    return SceneSource(config.scenes, size=image_size, start=start, count=count)
