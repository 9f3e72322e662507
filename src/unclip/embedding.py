"""The work of `unclip embed`: a frozen CLIP goes over a source, shard by shard of what it writes.

A shard covers a fixed span of the source and no batch spans two, so what is in it does not depend
on processes, loader workers or interruptions.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies import DDPStrategy
from tqdm import tqdm

from data_modules.configs import EmbedConfig
from data_modules.embed import EmbedBatch, embed_loader
from data_modules.embeddings.writer import Shard, Writer
from data_modules.readers.source import Source
from data_modules.sources import open_source
from unclip import artifacts
from unclip.models.clip import FrozenClip, Tokenizer
from unclip.training.checkpoints import World
from unclip.training.guard import STOPPING
from unclip.training.strategies import world_of
from unclip.types import Interrupted, UserError

logger = logging.getLogger(__name__)

_PATIENCE = timedelta(days=30)  # in which a process waits for one that has more shards left


def embed(
    config: EmbedConfig, clip: str, out: Path, *, force: bool = False
) -> dict[str, Any] | None:
    """Encode ``config.data.source`` into the folder ``out``, or what is still missing there.

    Args:
        config: What and how.
        clip: As of `artifacts.load_clip`.
        out: The folder; one of another run is refused.
        force: Replace what another run has written.

    Returns:
        The manifest; None on all processes but the first.

    Raises:
        UserError: Data, CLIP or folder are not as they should be.
        Interrupted: A signal said so; finished shards are kept.
    """
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
    fabric = _launch(config)
    with _until_told(fabric):
        try:
            job = _Job.of(config, artifacts.load_clip(clip))
            writer = Writer(out, job.header(), job.shards)
            writer.check(force=force)
        except UserError as error:
            raise World.here().ending(error) from None
        fabric.barrier()  # all have looked before one writes
        todo: list[int] = []
        if fabric.is_global_zero:
            writer.prepare(force=force)
            todo = writer.unfinished()
        todo = fabric.broadcast(todo)
        job.clip.model.to(fabric.device)
        for number, shard in job.encoded(todo[fabric.global_rank :: fabric.world_size], fabric):
            writer.write(number, shard)
        fabric.barrier()
        return writer.finish() if fabric.is_global_zero else None


def _launch(config: EmbedConfig) -> Fabric:
    """One process of as many as are asked for; the first starts the others, if nobody else did."""
    world = world_of(config.devices, config.nodes, config.accelerator, prefix="--")
    fabric = Fabric(
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=config.nodes,
        # gloo, because all that is exchanged is a list of numbers.
        strategy=DDPStrategy(process_group_backend="gloo", timeout=_PATIENCE)
        if world > 1
        else "auto",
        precision="bf16-mixed" if config.precision == "bf16" else "32-true",
    )
    fabric.launch()
    return fabric


@contextmanager
def _until_told(fabric: Fabric) -> Iterator[None]:
    """Within it a signal ends this process in a line; in the end those it started are gone."""
    own = os.getpid()

    def told(number: int, frame: Any) -> None:
        if os.getpid() == own:  # loader workers inherit this, and end with their process
            name = signal.Signals(number).name
            line = f"{name}: finished shards are kept; the same command goes on with the others"
            raise World.here().ending(Interrupted(line))

    before = {number: signal.signal(number, told) for number in STOPPING}
    try:
        yield
    except BaseException:
        for process in getattr(fabric.strategy.launcher, "procs", ()):
            process.kill()  # it may wait in a collective, where no signal is heard
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(frozen=True)
class _Job:
    """A source to be encoded by a CLIP."""

    config: EmbedConfig
    clip: FrozenClip
    source: Source
    samples: int

    @classmethod
    def of(cls, config: EmbedConfig, clip: FrozenClip) -> _Job:
        data = config.data
        size = clip.model.image_size
        source = open_source(data.source, data, image_size=size, split="all")
        return cls(config, clip, source, min(len(source), data.limit or len(source)))

    @property
    def shards(self) -> int:
        return -(-self.samples // self.config.shard_size)

    def header(self) -> dict[str, Any]:
        """What decides the content of the shards, and where it came from."""
        config = self.config
        return {
            "clip": {"source": self.clip.source, "fingerprint": self.clip.fingerprint},
            "data": {
                "source": config.data.source,
                "fingerprint": self.source.fingerprint(),
                "samples": self.samples,
            },
            "settings": {
                "shard_size": config.shard_size,
                "batch_size": config.data.batch_size,
                "captions": config.captions,
                "precision": config.precision,
            },
            "embed_dim": self.clip.model.embed_dim,
            "dtype": config.dtype,
        }

    def encoded(self, numbers: list[int], fabric: Fabric) -> Iterator[tuple[int, Shard]]:
        """The shards of ``numbers``; one loader for all of them, so that its workers never idle.

        Raises:
            UserError: Too many samples of a shard cannot be used, or an embedding is not finite.
        """
        spans = {number: self._batches(number) for number in numbers}
        batches = [batch for number in numbers for batch in spans[number]]
        model = self.clip.model
        loader = embed_loader(
            self.source,
            batches,
            config=self.config,
            clip_image_size=model.image_size,
            clip_tokenize=model.tokenize,
            tokenize=Tokenizer(model.context),
        )
        often = 0.1 if sys.stderr.isatty() else 20  # seconds; a log file gets a line now and then
        with tqdm(
            total=sum(map(len, batches)),
            desc="embedding",
            unit="sample",
            disable=not fabric.is_global_zero,
            mininterval=often,
            delay=1,
        ) as bar:
            loaded = iter(loader)
            for number in numbers:
                yield number, self._shard(spans[number], loaded, fabric, bar)

    def _shard(
        self, spans: list[range], loaded: Iterator[EmbedBatch], fabric: Fabric, bar: tqdm
    ) -> Shard:
        """What lies in one shard, whose next batch is the next of ``loaded``."""
        found: list[tuple[EmbedBatch, np.ndarray, np.ndarray]] = []
        samples, skipped = sum(map(len, spans)), 0
        for span in spans:
            batch = next(loaded)
            for problem in batch.problems:
                logger.warning("skipped %s", problem)
            skipped += len(batch.problems)
            if skipped > self.config.data.max_skipped * samples:
                raise UserError(
                    f"data.source: {skipped} of the {samples} samples of a shard cannot be used, "
                    f"more than data.max_skipped={self.config.data.max_skipped:g}; the last: "
                    f"{batch.problems[-1]}"
                )
            if batch.images is not None:
                found.append((batch, *self._embeddings(batch, fabric)))
            bar.update(len(span))
        none = np.empty((0, self.clip.model.embed_dim), self.config.dtype)
        no_tokens = np.empty((0, self.clip.model.context), np.uint16)
        return Shard(
            z_i=np.concatenate([none, *(z_i for _, z_i, _ in found)]),
            z_t=np.concatenate([none, *(z_t for *_, z_t in found)]),
            tokens=np.concatenate([no_tokens, *(batch.tokens for batch, *_ in found)]),
            keys=[key for batch, *_ in found for key in batch.keys],
            captions=[caption for batch, *_ in found for caption in batch.captions],
            samples=samples,
            skipped=skipped,
        )

    @torch.no_grad()
    def _embeddings(self, batch: EmbedBatch, fabric: Fabric) -> tuple[np.ndarray, np.ndarray]:
        """z_i and z_t ``[R, D]`` of each caption."""
        assert batch.images is not None
        model, size = self.clip.model, self.config.data.batch_size
        with fabric.autocast():
            z_i = model.encode_image(batch.images.to(fabric.device)).cpu()[batch.picture]
            tokens = batch.clip_tokens.to(fabric.device).split(size)
            z_t = torch.cat([model.encode_text(some).z_t for some in tokens]).cpu()
        fine = z_i.isfinite().all(dim=1) & z_t.isfinite().all(dim=1)
        if not fine.all():
            keys = [key for key, good in zip(batch.keys, fine.tolist()) if not good]
            raise UserError(
                f"clip={self.clip.source}: embeddings that are not finite, of {len(keys)} of "
                f"{len(fine)} samples ({', '.join(keys[:3])}, ...); look at these, or try "
                "--precision 32"
            )
        return z_i.numpy().astype(self.config.dtype), z_t.numpy().astype(self.config.dtype)

    def _batches(self, shard: int) -> list[range]:
        """Numbers of the samples of each batch of a shard."""
        size = self.config.data.batch_size
        first = shard * self.config.shard_size
        end = min(first + self.config.shard_size, self.samples)
        return [range(start, min(start + size, end)) for start in range(first, end, size)]
